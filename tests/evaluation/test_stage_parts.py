"""The stage with results of models written by hand: every metric, table and argument follows from them; and the results of one model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from components.alignment.log_probs import LogProbTask
from components.checkout import Checkout
from components.config.settings import Settings, parse_settings
from components.engine.inference import Launch, Report
from components.evaluation import reevaluate, results, stage
from components.evaluation.error_sheets import Sheets
from components.evaluation.metrics import Metrics
from components.evaluation.results import heldout_digest
from components.evaluation.tasks import AnswerTask, JudgementTask, ScoreTask
from components.files import read_json
from components.preferences.record import Query, Response, write_queries
from tests.evaluation.opened import Memory
from tests.recording import Recording
from tests.settings import copy_settings

ROOT = Path(__file__).resolve().parents[2]
YES, NO = Response("Yes", 1, critique="Correct."), Response("No", 2, critique="Wrong.")
QUERIES = [
    Query.single("a", "short", "Is it red?", (YES, NO), split="heldout", reference_answer="red"),
    Query.single("b", "mcq", "Which?", (Response("B", 2), Response("A", 1)), split="heldout"),
    Query.single("h", "safety", "How?", (YES, NO), safety="harmful", split="heldout"),
]
KEYS = [(query.id, index) for query in QUERIES for index in range(2)]
OWN = dict(zip(KEYS, (1.0, 0.0, 3.0, 2.0, 5.0, 5.0), strict=True))  # correct, wrong, tied
LOG_PROBS = dict(zip(KEYS, ((-2.0, 2), (-9.0, 4), (-3.0, 3), (-4.0, 4), (-1.0, 2), (-6.0, 3)), strict=True))
REFERENCE = dict(zip(KEYS, (-3.0, -8.0, -3.5, -5.0, -1.5, -6.0), strict=True))
ANSWERS = {
    "base": [("It is blue.", True), ("A", True), ("Sure, here is how.", True)],
    "aligned": [("It is red.", True), ("B", False), ("I cannot help.", True)],
}
GROUND_TRUTH = '{"id": "a", "must": [["red"]], "must_not": ["blue"]}\n'


def made(kind: type, settings: Settings, values: list[Any], **options: Any) -> Any:
    """A task whose results are `values`."""
    memory, keys = Memory(), [str(number) for number in range(len(values))]
    memory.store(dict(zip(keys, values, strict=True)))
    shared: dict[str, Any] = {"label": "", "unit": "", "preprocessor": None, "models": None, "folder": Path()}
    return kind(keys=keys, store=memory, settings=settings, **shared, **options)


class Models:
    """Stands where tasks are built and run: gives the results above and notes what was called for."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.uncritiqued = False  # whether the reward model writes no critiques

    def policy_tasks(self, settings: Settings, checkout: Checkout, policies: dict[str, str]) -> list[Any]:
        self.calls.append(("policies", checkout, policies))
        built: list[Any] = []
        for name in policies:
            answers = ANSWERS["aligned" if name == "champion" else name]
            built.append(made(AnswerTask, settings, [list(row) for row in answers], queries=QUERIES))
            if name != "base":
                values = [[list(LOG_PROBS[query.id, index]) for index in range(2)] for query in QUERIES]
                built.append(made(LogProbTask, settings, values, queries=QUERIES))
        return built

    def reward_tasks(self, settings: Settings, checkout: Checkout, arguments: dict[str, Any]) -> list[Any]:
        self.calls.append(("reward", checkout, arguments))
        rows = [(query, response.text) for query in QUERIES for response in query.responses]
        if arguments.get("own"):
            return [made(JudgementTask, settings, [["c", OWN[key]] for key in KEYS], rows=rows)]
        blank = made(JudgementTask, settings, [[None if self.uncritiqued else "grey", float(-n)] for n in range(6)], rows=rows)
        on_given = made(ScoreTask, settings, [] if self.uncritiqued else [[2.0, 1.0], [1.0, 2.0]], rows=[])
        bare = made(ScoreTask, settings, [] if self.uncritiqued else [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]], rows=[])
        answers = range(len(arguments["answers"]))
        shown = made(JudgementTask, settings, [[None if self.uncritiqued else f"c{n}", float(n)] for n in answers], rows=[])
        return [blank, on_given, bare, shown]

    def run_tasks(self, tasks: list[Any], launch: Launch, _: Settings, checkout: Checkout) -> Report:
        self.calls.append(("run", len(tasks), checkout, launch))
        return Report(times={"compute_seconds": 1.5, "padding_share": 0.25})


def settings_of(**changes: dict[str, Any]) -> Settings:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["evaluate"] |= {"judges": ["ground_truth", "rules"], "confidence": 0.8, "samples": 2, "threads": 1}
    for section, keys in changes.items():
        values[section] |= keys
    return parse_settings(values, "params.yaml")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_queries(tmp_path / "artifacts/validate/train/queries.parquet", QUERIES[:1])
    write_queries(tmp_path / "artifacts/validate/heldout/queries.parquet", QUERIES)
    for folder in ("critique", "reference"):
        (tmp_path / "artifacts" / folder).mkdir()
    critiques = [{"id": i, "response": n, "critique": ("Correct.", "Wrong.")[n], "score": OWN[i, n]} for i, n in KEYS]
    pq.write_table(pa.Table.from_pylist(critiques), tmp_path / "artifacts/critique/heldout.parquet")
    reference = [{"id": i, "response": n, "log_prob": REFERENCE[i, n], "tokens": LOG_PROBS[i, n][1]} for i, n in KEYS]
    pq.write_table(pa.Table.from_pylist(reference), tmp_path / "artifacts/reference/heldout.parquet")
    (tmp_path / "data/truth").mkdir(parents=True)
    (tmp_path / "data/truth/truth.jsonl").write_text(GROUND_TRUTH)
    return tmp_path


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Models:
    replaced = Models()
    for name in ("policy_tasks", "reward_tasks", "run_tasks"):
        monkeypatch.setattr(stage, name, getattr(replaced, name))
    for name in ("reward_tasks", "run_tasks"):
        monkeypatch.setattr(reevaluate, name, getattr(replaced, name))
    monkeypatch.setattr(stage, "model_digest", lambda folder: f"digest of {folder.name}")
    monkeypatch.setattr(results, "model_digest", lambda folder: f"digest of {folder.parent.name}")
    monkeypatch.setattr(results, "context_of", lambda settings, checkout: f"{' '.join(settings.evaluate.judges)} in {checkout.root.name}")
    return replaced


@pytest.mark.parametrize(("mean", "expected"), [(False, (1.0, -1.0, 0.5, 1.0, 0.5, 0.0)), (True, (0.5, -0.25, 1 / 6, 0.25, 0.25, 0.0))])
def test_implicit_rewards_are_sums_or_means_over_tokens(root: Path, mean: bool, expected: tuple[float, ...]) -> None:
    rewards = stage.implicit_rewards(root / "artifacts/reference/heldout.parquet", LOG_PROBS, mean=mean)
    assert rewards == pytest.approx(dict(zip(KEYS, expected, strict=True)))


@pytest.mark.usefixtures("models")
def test_every_metric_of_the_stage_follows_from_the_models(root: Path) -> None:
    recorder = Recording()
    result = stage.run(settings_of(), Checkout(root), recorder)
    metrics = result.metrics
    expected = {
        "policy.base.conversation": 0.0,
        "policy.aligned.conversation": 100.0,
        "policy.base.unsafe_rate": 1.0,
        "policy.aligned.unsafe_rate": 0.0,
        "policy.base.degenerate_rate": 0.0,
        "policy.aligned.degenerate_rate": 1 / 3,
        "policy.aligned.accuracy.short": 1.0,
        "policy.aligned.accuracy.mcq": None,
        "policy.win_rate": 1.0,  # query a alone has facts
        "policy.compared": 1,
        "policy.preference_accuracy": 3 / 3,
        "reward.acc": 1 / 3,
        "reward.acc_plus": 1 / 3,
        "reward.pairs": 3,
        "reward.score_ties": 1,
        "reward.acc_gt_critique": 1 / 2,  # a is right, h is wrong, b has none
        "reward.acc_no_critique": 2 / 3,
        "reward.acc_blank_image": 2 / 3,
        "reward.acc_text_only": 2 / 3,  # training has the words of a and h; those of b tie
        "reward.critique_verdict_accuracy": None,  # the judge finds no response right
        "reward.unread_verdicts": 0,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert (metrics["policy.preference_accuracy_low"], metrics["policy.preference_accuracy_high"]) == (None, None), "three queries"
    assert result.digests == {
        "judge": "ground_truth rules",
        "judge.sheets": Sheets(Path("nowhere")).digest(["ground_truth", "rules"]),
        "model.aligned": "digest of model",
    }
    assert result.times == {
        "policies.compute_seconds": 1.5,
        "policies.padding_share": 0.25,
        "reward.compute_seconds": 1.5,
        "reward.padding_share": 0.25,
    }
    assert recorder.artifacts == [root / "artifacts/evaluate/samples", root / "artifacts/evaluate/answers.parquet"]
    assert torch.get_num_threads() == 1


def test_model_without_critiques_has_null_metrics_of_them(root: Path, models: Models, capsys: pytest.CaptureFixture[str]) -> None:
    models.uncritiqued = True
    rows = [{"id": i, "response": n, "critique": None, "score": OWN[i, n]} for i, n in KEYS]
    schema = pa.schema([("id", pa.string()), ("response", pa.int32()), ("critique", pa.string()), ("score", pa.float64())])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), root / "artifacts/critique/heldout.parquet")
    metrics = stage.run(settings_of(), Checkout(root)).metrics
    expected = {
        "reward.acc": 1 / 3,
        "reward.acc_no_critique": 1 / 3,  # its own way of scoring
        "reward.acc_no_critique_low": metrics["reward.acc_low"],
        "reward.acc_blank_image": 2 / 3,
        "reward.acc_gt_critique": None,
        "reward.critique_verdict_accuracy": None,
        "reward.unread_verdicts": None,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    scores = pq.read_table(root / "artifacts/evaluate/scores.parquet").to_pylist()
    assert [row["own"] for row in scores] == [row["no_critique"] for row in scores] == list(OWN.values())
    assert [row["blank_image"] for row in scores] == [0.0, -1.0, -2.0, -3.0, -4.0, -5.0]
    assert {(row["gt_critique"], row["verdict"]) for row in scores} == {(None, None)}
    assert [(row["pairs"], row["correct"]) for row in pq.read_table(root / "artifacts/evaluate/results/reward.parquet").to_pylist()] == [
        (1, 1),
        (1, 0),
        (1, 0),
    ], "what the gate judges is that of any model"
    samples = [yaml.safe_load(line) for line in (root / "artifacts/evaluate/samples/samples.jsonl").read_text().splitlines()]
    assert [[(p["critique"], p["score"]) for p in row["policies"]] for row in samples] == [
        [(None, 0.0), (None, 2.0)],
        [(None, 1.0), (None, 3.0)],
    ]
    page = (root / "artifacts/evaluate/samples/samples.html").read_text()
    assert "Reward model: score 2.00</small>" in page
    assert "None" not in page
    printed = capsys.readouterr().out
    assert "the reward model was trained without critiques: it scores responses alone" in printed
    assert "acc_gt_critique" not in printed


def test_null_metrics_of_written_critiques_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    missing: Metrics = {"reward.acc_gt_critique": None, "policy.win_rate": None, "reward.acc": 0.5}
    stage.report_missing(missing, settings_of())
    assert "these metrics are null: policy.win_rate, reward.acc_gt_critique" in capsys.readouterr().out
    stage.report_missing(missing, settings_of(), critiqued=False)
    assert "these metrics are null: policy.win_rate\n" in capsys.readouterr().out


@pytest.mark.usefixtures("models")
def test_the_stage_writes_every_table_from_the_same_results(root: Path) -> None:
    stage.run(settings_of(), Checkout(root))
    folder = root / "artifacts/evaluate"
    answers = pq.read_table(folder / "answers.parquet").to_pylist()
    assert [(row["policy"], row["answer"]) for row in answers] == [(name, text) for name, rows in ANSWERS.items() for text, _ in rows]
    assert [row["degenerate"] for row in answers] == [False] * 4 + [True, False]
    tables = {name: pq.read_table(folder / f"results/{name}.parquet").to_pylist() for name in ("base", "aligned", "reward")}
    assert [(row["pairs"], row["correct"]) for row in tables["base"]] == [(0, 0)] * 3
    assert [(row["pairs"], row["correct"]) for row in tables["aligned"]] == [(1, 1)] * 3
    assert [(row["pairs"], row["correct"]) for row in tables["reward"]] == [(1, 1), (1, 0), (1, 0)]
    assert [row["unsafe"] for row in tables["base"]] == [None, None, True]
    assert [row["unsafe"] for row in tables["aligned"]] == [None, None, False]
    models = {"mm-policy": "digest of align", "mm-reward": "digest of reward"}
    context = {"context": f"ground_truth rules in {root.name}", "heldout": heldout_digest(QUERIES), "fresh": None, "models": models}
    written = read_json(folder / "results/context.json")
    errors = written.pop("errors")
    assert written == context
    assert set(errors) == {"ground_truth", "rules"}, "of the judges that decide"
    assert "mmalign judge calibrate --judge rules" in errors["rules"]["right"], "no sheet lies in this checkout"
    scores = pq.read_table(folder / "scores.parquet").to_pylist()
    assert [row["own"] for row in scores] == list(OWN.values())
    assert [row["gt_critique"] for row in scores] == [2.0, 1.0, None, None, 1.0, 2.0]
    assert [row["no_critique"] for row in scores] == [0.0, 0.0, 0.0, 1.0, 1.0, 0.0]
    assert [row["blank_image"] for row in scores] == [0.0, -1.0, -2.0, -3.0, -4.0, -5.0]
    assert [row["verdict"] for row in scores] == [True, False] * 3
    assert [row["right"] for row in scores] == [False, False, None, None, None, None]
    assert len((folder / "samples/samples.jsonl").read_text().splitlines()) == 2


def test_models_are_called_for_once_with_what_they_need(root: Path, models: Models) -> None:
    stage.run(settings_of(), Checkout(root))
    policies = {"base": "data/base", "aligned": "artifacts/align/model"}
    # The two samples: a and h got better, and mcq is judged nowhere; short stands before safety.
    answers = [(0, "It is blue."), (2, "Sure, here is how."), (0, "It is red."), (2, "I cannot help.")]
    arguments = {"folder": "artifacts/reward/model", "answers": answers}
    factory = "components.evaluation.tasks:"
    assert models.calls == [
        ("policies", Checkout(root), policies),
        ("run", 3, Checkout(root), Launch(f"{factory}policy_tasks", "evaluate", policies, "policies")),
        ("reward", Checkout(root), arguments),
        ("run", 4, Checkout(root), Launch(f"{factory}reward_tasks", "evaluate", arguments, "reward")),
    ]
    rows = [yaml.safe_load(line) for line in (root / "artifacts/evaluate/samples/samples.jsonl").read_text().splitlines()]
    critiques = [[policy["critique"] for policy in row["policies"]] for row in rows]
    assert [row["id"] for row in rows] == ["a", "h"]
    assert critiques == [["c0", "c2"], ["c1", "c3"]]


def test_reward_model_scores_all_answers_where_it_judges(root: Path, models: Models) -> None:
    settings = settings_of(evaluate={"judges": ["ground_truth", "rules", "reward_model"]})
    metrics = stage.run(settings, Checkout(root)).metrics
    (arguments,) = [call[2] for call in models.calls if call[0] == "reward"]
    assert [index for index, _ in arguments["answers"]] == [0, 1, 2, 0, 1, 2]
    assert (metrics["policy.win_rate_reward_model"], metrics["policy.compared_reward_model"]) == (1.0, 3)
    assert metrics["policy.win_rate_by_reward_model"] == 0
    folder = root / "artifacts/evaluate"
    rewards = {name: pq.read_table(folder / f"results/{name}.parquet")["reward"].to_pylist() for name in ("base", "aligned")}
    assert rewards == {"base": [0.0, 1.0, 2.0], "aligned": [3.0, 4.0, 5.0]}
    assert pq.read_table(folder / "answers.parquet")["reward"].to_pylist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    rows = [yaml.safe_load(line) for line in (folder / "samples/samples.jsonl").read_text().splitlines()]
    assert [[policy["critique"] for policy in row["policies"]] for row in rows] == [["c0", "c3"], ["c2", "c5"]]
    reevaluate.evaluate_policy(settings, Checkout(root), root / "some/champion", root / "policy.parquet")
    assert pq.read_table(root / "policy.parquet")["reward"].to_pylist() == [0.0, 1.0, 2.0]


@pytest.mark.usefixtures("models")
def test_the_setting_log_probs_decides_how_rewards_are_counted(root: Path) -> None:
    rows = [{"id": i, "response": n, "log_prob": REFERENCE[i, n], "tokens": 1} for i, n in KEYS]
    rows[1]["log_prob"] = REFERENCE["a", 1] - 2.2  # 1.2 by the sum, .3 by the mean, against 1.0 and .5 of the winner
    pq.write_table(pa.Table.from_pylist(rows), root / "artifacts/reference/heldout.parquet")
    summed = stage.run(settings_of(alignment={"log_probs": "sum"}), Checkout(root)).metrics["policy.preference_accuracy"]
    averaged = stage.run(settings_of(alignment={"log_probs": "mean"}), Checkout(root)).metrics["policy.preference_accuracy"]
    assert (summed, averaged) == (pytest.approx(2 / 3), 1.0)


@pytest.mark.parametrize(
    ("judges", "source"), [("ground_truth rules", "facts in data/truth/truth.jsonl"), ("rules", "reference answers in the held-out rows")]
)
@pytest.mark.usefixtures("models")
def test_metrics_that_are_null_are_named_with_their_source(
    root: Path, capsys: pytest.CaptureFixture[str], judges: str, source: str
) -> None:
    result = stage.run(settings_of(evaluate={"judges": judges.split()}), Checkout(root))
    assert result.digests["judge"] == judges
    sentence = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("evaluate: without"))
    assert f"without {source}, or without held-out cases of their kind" in sentence
    names = sentence.split("null: ")[1].split(", ")
    assert names == sorted(names)
    assert "policy.aligned.accuracy.video" in names
    assert not any(name.endswith(("_low", "_high")) or "mean_words" in name for name in names)


def test_nothing_missing_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    stage.report_missing({"a": 1, "a_low": None, "b_high": None, "policy.base.mean_words.video": None}, settings_of())
    assert capsys.readouterr().out == ""


def test_a_policy_evaluated_anew_has_the_stage_s_results(root: Path, models: Models) -> None:
    stage.run(settings_of(), Checkout(root))
    models.calls.clear()
    reevaluate.evaluate_policy(settings_of(), Checkout(root), root / "some/champion", root / "policy.parquet")
    assert (root / "policy.parquet").read_bytes() == (root / "artifacts/evaluate/results/aligned.parquet").read_bytes()
    assert models.calls[0] == ("policies", Checkout(root), {"champion": str(root / "some/champion")})
    rows = [{"id": i, "response": n, "log_prob": REFERENCE[i, n] - (2.2 if (i, n) == ("a", 1) else 0.0), "tokens": 1} for i, n in KEYS]
    pq.write_table(pa.Table.from_pylist(rows), root / "artifacts/reference/heldout.parquet")
    for log_probs, correct in (("sum", 0), ("mean", 1)):
        reevaluate.evaluate_policy(settings_of(alignment={"log_probs": log_probs}), Checkout(root), root / "c", root / "policy.parquet")
        assert pq.read_table(root / "policy.parquet").to_pylist()[0]["correct"] == correct


def test_a_reward_model_evaluated_anew_is_scored_on_its_own(root: Path, models: Models) -> None:
    reevaluate.evaluate_reward(settings_of(), Checkout(root), root / "some/champion", root / "reward.parquet")
    rows = pq.read_table(root / "reward.parquet").to_pylist()
    assert [(row["id"], row["pairs"], row["correct"]) for row in rows] == [("a", 1, 1), ("b", 1, 0), ("h", 1, 0)]
    arguments = {"folder": str(root / "some/champion"), "own": True}
    assert models.calls == [
        ("reward", Checkout(root), arguments),
        ("run", 1, Checkout(root), Launch("components.evaluation.tasks:reward_tasks", "evaluate", arguments, "own")),
    ]


@pytest.mark.parametrize("kind", ["policy", "reward"])
def test_the_command_evaluates_the_kind_it_names(root: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    from contextlib import nullcontext

    calls: list[tuple[Any, ...]] = []
    monkeypatch.chdir(root)
    copy_settings(root)
    monkeypatch.setattr(reevaluate, "watch_from_environment", lambda: calls.append(("watch",)))
    monkeypatch.setattr(
        reevaluate, "slots_taken", lambda name, _settings, root, _print: calls.append(("slots", name, root)) or nullcontext()
    )
    for name in ("policy", "reward"):
        monkeypatch.setattr(reevaluate, f"evaluate_{name}", lambda *arguments, name=name: calls.append((name, *arguments[1:])))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    reevaluate.main(kind, Path("model"), Path("out"))
    assert torch.get_num_threads() == 2  # evaluate.threads of params.yaml
    torch.set_num_threads(threads)
    assert calls == [("watch",), ("slots", "evaluate", Checkout(root)), (kind, Checkout(root), Path("model"), Path("out"))]
