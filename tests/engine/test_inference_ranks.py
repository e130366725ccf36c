"""Stages on two ranks under torchrun leave what one rank leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from components.alignment import reference_stage
from components.checkout import Checkout
from components.config.settings import Settings
from components.critique import stage as critique_stage
from components.errors import UserError
from components.evaluation import stage as evaluation_stage
from components.families.loading import load_model
from components.features import cache as feature_cache
from components.preferences.record import Query, read_queries, write_queries
from components.reward.model import new_reward_model
from tests.tiny import rephrased, save_checkout, save_checkpoint

pytestmark = pytest.mark.slow
CRITIQUE = {"batch_size": 12, "max_new_tokens": 6, "threads": 1}
ROWS = {"row_tokens": 64}  # so that the queries fill more than one batch of 16 rows


def checkout(root: Path, base: Path, media: Path, ranks: int, zero: bool = False, copies: int = 5) -> Settings:
    root.mkdir()
    spread = {"ranks": ranks, "zero_inference": zero}
    evaluate = {"batch_size": 2, "max_new_tokens": 6, "threads": 1}
    settings = save_checkout(
        root, base, media, critique=CRITIQUE | spread, reference={"threads": 1} | spread, evaluate=evaluate | spread, training=ROWS
    )
    table = root / "artifacts/validate/train/queries.parquet"
    queries = read_queries(table)
    write_queries(table, [rephrased(query, f"{query.prompt} {n}", id=f"{query.id}-{n}") for n in range(copies) for query in queries])
    new_reward_model(load_model(base), seed=0).save(root / "artifacts/reward/model", base)
    save_checkpoint(root / "artifacts/align/model", seed=1)
    write_ground_truth(root, read_queries(root / "artifacts/validate/heldout/queries.parquet"))
    return settings


def write_ground_truth(root: Path, queries: list[Query]) -> None:
    lines = [json.dumps({"id": query.id, "must": [["yes"]], "must_not": ["no"]}) + "\n" for query in queries]
    (root / "data/truth").mkdir()
    (root / "data/truth/truth.jsonl").write_text("".join(lines))


def outs(root: Path) -> dict[str, bytes]:
    return {
        f"{stage}/{split}": (root / f"artifacts/{stage}/{split}.parquet").read_bytes()
        for stage in ("critique", "reference")
        for split in ("train", "heldout")
    }


def evaluation(root: Path) -> dict[str, bytes]:
    folder = root / "artifacts/evaluate"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def rows(root: Path, stage: str) -> list[dict[str, Any]]:
    rows_read: list[dict[str, Any]] = pq.read_table(root / f"artifacts/{stage}/train.parquet").to_pylist()
    return rows_read


@pytest.fixture(scope="module")
def single_process(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_media: Path) -> Path:
    root = tmp_path_factory.mktemp("single_process") / "root"
    settings = checkout(root, tiny_base, tiny_media, ranks=1)
    critique_stage.run(settings, Checkout(root))
    reference_stage.run(settings, Checkout(root))
    evaluation_stage.run(settings, Checkout(root))
    return root


def test_two_ranks_share_the_work_and_write_the_bytes_of_one(
    single_process: Path,
    tmp_path: Path,
    tiny_base: Path,
    tiny_media: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = tmp_path / "root"
    settings = checkout(root, tiny_base, tiny_media, ranks=2)
    monkeypatch.setattr(feature_cache, "load_model", lambda *_, **__: pytest.fail("the launcher opened the vision tower"))
    critique = critique_stage.run(settings, Checkout(root))
    reference_stage.run(settings, Checkout(root))
    evaluated = evaluation_stage.run(settings, Checkout(root))
    assert outs(root) == outs(single_process)
    assert evaluation(root) == evaluation(single_process)
    # Both ranks have computed features of the four media, for the reward model's tower and for the base's, which are one.
    assert len(list((root / ".mmalign").rglob("*.shard"))) == 2 * len(list((single_process / ".mmalign").rglob("*.shard")))
    assert evaluated.times["policies.tokens_per_second"] > 0
    assert critique.times["train.responses_computed"] == len(rows(root, "critique"))
    assert critique.times["tokens_per_second"] > 0
    for stage, runs in (("critique", 1), ("reference", 1), ("evaluate", 2)):
        ends = sorted((root / ".mmalign/scratch" / stage).glob("*/finished-*.json"))
        assert len(ends) == 2 * runs
        assert all(json.loads(end.read_text())["tokens"] > 0 for end in ends)
    assert "critiques, train: 100%" in capfd.readouterr().err.replace("\r", "\n")


def test_failed_rank_names_its_reason_and_the_next_run_resumes(
    single_process: Path, tmp_path: Path, tiny_base: Path, tiny_media: Path
) -> None:
    root = tmp_path / "root"
    settings = checkout(root, tiny_base, tiny_media, ranks=2)
    config = root / "artifacts/reward/model/config.json"
    good = config.read_text()
    config.write_text(good.replace('"architectures"', '"arch"').replace("llava_onevision", "bert"))
    with pytest.raises(UserError, match="bert"):
        critique_stage.run(settings, Checkout(root))
    config.write_text(good)
    critique_stage.run(settings, Checkout(root))
    assert rows(root, "critique") == rows(single_process, "critique")


def test_spread_model_gives_equal_results_with_unequal_shares(
    single_process: Path, tmp_path: Path, tiny_base: Path, tiny_media: Path
) -> None:
    root = tmp_path / "root"
    settings = checkout(root, tiny_base, tiny_media, ranks=2, zero=True, copies=1)
    critique_stage.run(settings, Checkout(root))
    critiques = {(row["id"], row["response"]): row for row in rows(single_process, "critique")}
    for spread in rows(root, "critique"):
        assert spread["critique"] == critiques[spread["id"], spread["response"]]["critique"]
        assert spread["score"] == pytest.approx(critiques[spread["id"], spread["response"]]["score"], abs=1e-5)
    reference_stage.run(settings, Checkout(root))
    evaluation_stage.run(settings, Checkout(root))
    answers = [pq.read_table(folder / "artifacts/evaluate/answers.parquet").to_pylist() for folder in (root, single_process)]
    assert answers[0] == answers[1]
