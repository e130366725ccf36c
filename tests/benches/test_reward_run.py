"""`mmalign bench reward` on the tiny checkpoint: what is scored, what a stopped run leaves, and what reaches MLflow."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.benches import reward_run
from components.benches.reward_bench import Reader, read_rows
from components.benches.reward_run import RewardRequest, bench_reward
from components.checkout import Checkout
from components.config.settings import Settings
from components.errors import UserError
from components.evaluation.tasks import JudgementTask
from components.families.digests import model_digest
from components.families.loading import load_model
from components.preferences.record import read_queries
from components.reward.judging import write_and_score
from components.reward.model import load_reward_model, new_reward_model
from components.validation.lengths import LengthCheck
from tests.checkout import mmalign, start_mmalign
from tests.tiny import preprocessor, save_checkout

PATIENCE = 900  # seconds, on a busy machine
Prepared = tuple[Checkout, Settings, RewardRequest]
ROWS = [
    ("a", {"image": "long/square.png"}, "What is it?", "A cat.", "A dog on a mat."),
    ("a", {"image": "long/square.png"}, "What is it?", "A cat.", "Nothing."),
    ("b", {"image": "short/tall.png"}, "Where?", "Left, far away.", "Right."),
    ("c", {"video": "video/two"}, "When?", "Now.", "Later."),
]


def write_bench(folder: Path, media: Path, rows: list[Any] = ROWS) -> Path:
    """A benchmark of the tiny media in the release's layout; the first question has critiques."""
    for source, target in (("square.png", "long/square.png"), ("tall.png", "short/tall.png"), ("two", "video/two")):
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (media / source).is_dir() else shutil.copy)(media / source, folder / target)
    entries = []
    for name, medium, prompt, chosen, rejected in rows:
        reasons = ("Correct.", f"Wrong: {rejected}") if name == "a" else ("", "")
        pair = {"chosen": chosen, "rejected": rejected, "chosen_reason": reasons[0], "rejected_reason": reasons[1]}
        entries.append({"id": name, **medium, "prompt": prompt, **pair})
    (folder / "bench.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return folder / "bench.jsonl"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_media: Path) -> Prepared:
    root = tmp_path_factory.mktemp("bench")
    critique = {"max_new_tokens": 5, "batch_size": 2, "threads": 1}
    settings = save_checkout(
        root, tiny_base, tiny_media, evaluate={"threads": 1}, critique=critique, features={"cache": False}, reward={"instruction": "Judge."}
    )
    new_reward_model(load_model(tiny_base), 0).save(root / "artifacts/reward/model", tiny_base)
    return Checkout(root), settings, RewardRequest(write_bench(root / "there", tiny_media), "mm_rlhf")


def copied(checkout: Checkout, folder: Path) -> Checkout:
    shutil.copytree(checkout.root, folder, ignore=shutil.ignore_patterns(".mmalign", "reports"))
    return Checkout(folder)


@pytest.fixture(scope="module")
def whole(checkout: Prepared) -> tuple[Path, dict[str, Any], list[Any]]:
    """The result of a run that nobody stopped, and what it recorded."""
    root, settings, request = checkout
    with pytest.MonkeyPatch.context() as patch:
        calls: list[Any] = []
        patch.setattr(reward_run, "record_result", lambda *call: calls.append(call))
        target, result = bench_reward(settings, root, request, print)
    return target, result, calls


def test_answers_score_as_evaluation_scores_them(checkout: Prepared, whole: tuple[Path, dict[str, Any], list[Any]]) -> None:
    root, _, _ = checkout
    target, result, calls = whole
    assert target.parent == root.bench_results
    assert (result["n_pairs"], result["n_queries"], list(result["by_category"])) == (4, 3, ["long", "short", "video"])

    (queries,) = [read_queries(path) for path in (root.bench / "queries").glob("*.parquet")]
    reward, read = load_reward_model(root.reward_model), preprocessor(root.root / "data/base", root.bench / "media")
    rows = [(query, response.text) for query in queries for response in query.responses]
    judged = write_and_score(reward, read, rows, instruction="Judge.", max_new_tokens=5, batch_size=8)
    score = {(query.id.split("/")[1], text): value for (query, text), (_, value) in zip(rows, judged, strict=True)}
    expected = [score[name, chosen] > score[name, rejected] for name, _, _, chosen, rejected in ROWS]
    assert result["overall"] == {"acc": sum(expected) / 4, "acc_plus": (all(expected[:2]) + expected[2] + expected[3]) / 3}
    assert result["given_critique"] in {0.0, 0.5, 1.0}  # of the first question's two rows alone
    assert result["text_only"] is not None
    assert result["length_only"] == 1 / 4  # the better answer is longer in the second question alone
    assert [(call[1], call[2]) for call in calls] == [("bench", ("mm-reward", model_digest(root.reward_model)))]


def test_stopped_run_goes_on_to_the_same_bytes(
    checkout: Prepared, whole: tuple[Path, dict[str, Any], list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, settings, request = checkout
    stopped, computed, calls = copied(root, tmp_path / "stopped"), list[int](), list[Any]()
    compute = JudgementTask.compute

    def until_second(task: JudgementTask, items: Any, ranks: Any) -> Any:
        computed.append(len(items))
        if len(computed) == 2:
            raise KeyboardInterrupt
        return compute(task, items, ranks)

    monkeypatch.setattr(reward_run, "record_result", lambda *call: calls.append(call))
    monkeypatch.setattr(JudgementTask, "compute", until_second)
    with pytest.raises(KeyboardInterrupt):
        bench_reward(settings, stopped, request, print)
    assert not list(stopped.bench_results.glob("*"))
    target, _ = bench_reward(settings, stopped, request, print)
    assert target.read_bytes() == whole[0].read_bytes()
    assert target.with_suffix(".parquet").read_bytes() == whole[0].with_suffix(".parquet").read_bytes()
    assert sum(computed) == 7 + 7 + computed[1], "the first batch is computed once, the stopped one twice"

    batches = len(computed)
    bench_reward(settings, stopped, request, print)
    assert (len(computed), len(calls)) == (batches, 1), "a third run computes and records nothing"


@pytest.mark.slow
def test_killed_command_ends_with_the_same_bytes(
    checkout: Prepared, tmp_path: Path, tiny_media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, settings, request = checkout
    rows = [(f"q{n}", {"image": "long/square.png"}, f"What is it? {n}", f"A cat, {n}.", f"A dog on mat {n}.") for n in range(20)]
    data = write_bench(tmp_path / "rows", tiny_media, rows)
    monkeypatch.setattr(reward_run, "record_result", lambda *_: None)
    whole, _ = bench_reward(settings, copied(root, tmp_path / "whole"), replace(request, data=data), print)

    folder = copied(root, tmp_path / "killed").root
    (folder / "dvc.yaml").write_text("stages: {}\n")
    (folder / ".git").mkdir()
    command = ("bench", "reward", "--data", str(data), "--json")
    with start_mmalign(folder, *command) as process:
        until = time.monotonic() + PATIENCE
        while scored(folder) < 10 and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        process.kill()
    assert 10 <= scored(folder) < 80, "it was killed on the way: 40 answers are scored, and again over gray pictures"
    assert not (folder / "reports/bench").exists()

    completed = mmalign(folder, *command, timeout=PATIENCE)
    assert completed.returncode == 0, completed.stderr
    assert json.loads(completed.stdout)["n_pairs"] == 20, "stdout has the result alone"
    for path in (whole, whole.with_suffix(".parquet")):
        assert (folder / "reports/bench" / path.name).read_bytes() == path.read_bytes()


def scored(folder: Path) -> int:
    """How many values the cache of evaluation has."""
    address = f"file:{folder / '.mmalign/cache/evaluate.sqlite'}?mode=ro"
    with (
        suppress(sqlite3.OperationalError),
        closing(sqlite3.connect(address, uri=True)) as connection,
    ):  # before the file or its table is made
        return int(connection.execute("SELECT COUNT(*) FROM entries").fetchone()[0])
    return 0


def test_rows_that_cannot_be_used_are_named(checkout: Prepared, tmp_path: Path, tiny_media: Path, tiny_base: Path) -> None:
    root, settings, _ = checkout
    path = write_bench(tmp_path / "faulty", tiny_media, [*ROWS, ("d", {"image": "no.png"}, "?", "x", "y"), ("e", {}, "?", "same", "same")])
    with path.open("a") as stream:
        stream.write('{"id": 3}\n')
    rows, refused, media = read_rows(path, "mm_rlhf", None)
    library = tmp_path / "library"
    library.mkdir()
    lengths = LengthCheck(preprocessor(tiny_base, library), "Judge.", 512)
    bench = Reader(root, settings, media, library, lengths).read(rows, refused)
    assert [refusal.row for refusal in bench.refused] == [7, 5, 6]
    assert "no.png' does not exist" in bench.refused[1].reason
    assert [pair.question for pair in bench.pairs] == ["a", "a", "b", "c"]
    assert [query.responses[0].critique for query in bench.queries] == ["Correct.", None, None]
    assert len({query.media[0].path for query in bench.queries}) == 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"format": "mm"}, "--format 'mm' is none of mm_rlhf, vl_rewardbench, mm_rewardbench"),
        ({"format": "vl_rewardbench"}, "holds no row of vl_rewardbench"),
        ({"model": Path("data/base")}, "holds no reward model"),
        ({"data": Path("nowhere.jsonl")}, "nowhere.jsonl does not exist"),
    ],
)
def test_mistakes_are_one_sentence(checkout: Prepared, changes: dict[str, Any], sentence: str) -> None:
    root, settings, request = checkout
    with pytest.raises(UserError, match=sentence):
        bench_reward(settings, root, RewardRequest(**{**vars(request), **changes}), print)
