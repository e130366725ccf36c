"""The reward model's training task against separate forward passes: annotated and mixed steps, counts, own critiques and resume."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from components.checkout import Checkout
from components.config.settings import Settings, load_settings
from components.engine.task import EpochContext, check_plan
from components.errors import StageFault, UserError
from components.families.processing import Preprocessor
from components.files import digest_file, read_json, write_json
from components.generation import critiques as writer
from components.generation.critiques import write_critiques
from components.preferences.record import Query, write_queries
from components.reward import own_critiques
from components.reward import task as task_module
from components.reward.calibration import is_calibration
from components.reward.losses import StepCounts
from components.reward.model import ScoreHead, load_reward_model
from components.reward.own_critiques import critiques_file, own_queries
from components.reward.task import RewardTask
from components.trees.planning import plan_epoch
from tests.tiny import pixels, preprocessor, queries, save_checkout

LETTERS = 94  # the tiny tokenizer's first tokens are the printable characters of ASCII
SEED = 3
INSTRUCTION = "Judge."


def training_queries() -> list[Query]:
    """The tiny queries, of which the first has a response without a critique and the third has none at all."""
    rows = queries()
    first, third = rows[0], rows[2]
    rows[0] = replace(first, responses=(first.responses[0], replace(first.responses[1], critique=None), *first.responses[2:]))
    rows[2] = replace(third, responses=tuple(replace(response, critique=None) for response in third.responses))
    return rows


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_media: Path) -> Path:
    root = tmp_path_factory.mktemp("checkout")
    save_checkout(
        root,
        tiny_base,
        tiny_media,
        training={"ranks": 1, "row_tokens": 400, "batch_rows": 1, "seed": SEED},
        reward={"queries_per_step": 5, "instruction": INSTRUCTION, "tie_weight": 0.3, "critique_weight": 0.7, "own_share": 0.4},
        critique={"max_new_tokens": 5, "batch_size": 7},
    )
    write_queries(root / "artifacts/validate/train/queries.parquet", training_queries())
    return root


def settings_of(root: Path, training: dict[str, Any] | None = None, **changes: Any) -> Settings:
    settings = load_settings(root / "params.yaml")
    sections = {"reward": settings.reward.model_copy(update=changes), "training": settings.training.model_copy(update=training or {})}
    return settings.model_copy(update=sections)


def made(root: Path, training: dict[str, Any] | None = None, **changes: Any) -> RewardTask:
    """A task whose model writes mostly letters: a tied head says its last token without end."""
    task = RewardTask(settings_of(root, training, **changes), Checkout(root))
    head = task.model.model.lm_head
    weight_VH = torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(1))
    weight_VH[LETTERS:] *= 0.85
    head.weight = torch.nn.Parameter(weight_VH)
    return task


@pytest.fixture(scope="module")
def mixed(checkout: Path) -> RewardTask:
    return made(checkout)


@pytest.fixture(scope="module")
def annotated(checkout: Path) -> RewardTask:
    return made(checkout, critique_source="annotated")


@pytest.fixture(scope="module")
def live(tiny_base: Path, tiny_media: Path) -> Preprocessor:
    """A preprocessor whose media run through the tower at every pass."""
    return preprocessor(tiny_base, tiny_media)


class OneProcess(EpochContext):
    """The context of a rank whose barriers call `meet` with their number."""

    meet: Callable[[int], None] = staticmethod(lambda _number: None)
    barriers = 0

    def barrier(self) -> None:
        self.barriers += 1
        self.meet(self.barriers)


def begun(task: RewardTask, epoch: int, scratch: Path) -> RewardTask:
    task.begin_epoch(epoch, OneProcess(0, 1, scratch))
    return task


def step_sums(task: RewardTask, epoch: int) -> dict[str, float]:
    """Loss and metrics of the epoch's only step, added up over its micro-batches as the engine does."""
    (step,) = task.epoch_plan(epoch)
    sums: dict[str, float] = {}
    with torch.no_grad():
        for micro in step.micros[0]:
            batch = task.batch(micro)
            loss, metrics = task.loss(task.model(**batch), batch)
            for name, value in {"loss": loss, **metrics}.items():
                sums[name] = sums.get(name, 0.0) + value.item()
    return sums


READ: dict[tuple[str, str, str], tuple[float, float]] = {}  # all tasks here have the same weights


def read(task: RewardTask, live: Preprocessor, query: Query, response: str, critique: str) -> tuple[float, float]:
    """The score of a response with its critique, and the critique's mean token cross-entropy, from a pass over these tokens."""
    key = query.id, response, critique
    if key not in READ:
        READ[key] = read_by_itself(task, live, query, response, critique)
    return READ[key]


def read_by_itself(task: RewardTask, live: Preprocessor, query: Query, response: str, critique: str) -> tuple[float, float]:
    root = live.judge_root(query, INSTRUCTION)
    after = live.critique_ids(critique)
    tokens = [*root.input_ids, *live.judge_ids(response), *after]
    with torch.no_grad():
        hidden_LH = task.model.model.model(input_ids=torch.tensor([tokens]), **pixels(root)).last_hidden_state[0]
        log_p_LV = task.model.model.lm_head(hidden_LH[-1 - len(after) : -1]).log_softmax(1)
        entropy = -sum(log_p_LV[position, token].item() for position, token in enumerate(after)) / len(after)
        return task.model.head(hidden_LH[-1:]).item(), entropy


def by_hand(task: RewardTask, live: Preprocessor, own: dict[str, list[str]]) -> dict[str, float]:
    """What a step over all queries must come to, where the queries in `own` are scored on those critiques and learn none."""
    pairs, ties, entropies, right, margins = [], [], [], [], []
    for query in training_queries():
        texts = own.get(query.id, [r.critique or "" for r in query.responses])
        results = [read(task, live, query, r.text, text) for r, text in zip(query.responses, texts, strict=True)]
        scores = [score for score, _ in results]
        for winner, loser in query.pairs():
            margins.append(scores[winner] - scores[loser])
            pairs.append(-logsigmoid(torch.tensor(margins[-1])).item())
            right.append(margins[-1] > 0)
        ties += [(scores[a] - scores[b]) ** 2 for a, b in query.ties()]
        if query.id not in own:
            entropies += [entropy for response, (_, entropy) in zip(query.responses, results, strict=True) if response.critique]
    assert (len(pairs), len(ties)) == (17, 2)
    terms = {
        "loss/pair": sum(pairs) / 17,
        "loss/tie": sum(ties) / 2,
        "loss/critique": sum(entropies) / len(entropies) if entropies else 0.0,
        "accuracy": sum(right) / 17,
        "margin": sum(margins) / 17,
    }
    return {"loss": terms["loss/pair"] + 0.3 * terms["loss/tie"] + 0.7 * terms["loss/critique"], **terms}


@pytest.mark.parametrize("epoch", [0, 1])
def test_annotated_step_scores_and_learns_annotated_critiques(
    annotated: RewardTask, live: Preprocessor, tmp_path: Path, epoch: int
) -> None:
    sums = step_sums(begun(annotated, epoch, tmp_path), epoch)
    assert sums == pytest.approx(by_hand(annotated, live, {}), abs=1e-5)
    assert list(tmp_path.iterdir()) == [], "no critique is written"


def test_mixed_step_of_the_first_epoch_is_the_annotated_one(mixed: RewardTask, live: Preprocessor, tmp_path: Path) -> None:
    context = OneProcess(0, 1, tmp_path)
    mixed.begin_epoch(0, context)
    assert step_sums(mixed, 0) == pytest.approx(by_hand(mixed, live, {}), abs=1e-5)
    assert context.extra == {}
    assert context.barriers == 0


def test_mixed_step_scores_own_critiques_and_never_learns_them(mixed: RewardTask, live: Preprocessor, tmp_path: Path) -> None:
    begun(mixed, 1, tmp_path)
    chosen = own_queries(5, 0.4, SEED, 1)
    rows = [training_queries()[index] for index in chosen]
    own = {q.id: write_critiques(mixed.model.model, live, [(q, r.text) for r in q.responses], **WRITING) for q in rows}
    assert len(own) == 2
    assert all(text for texts in own.values() for text in texts)
    expected = by_hand(mixed, live, own)
    sums = step_sums(mixed, 1)
    assert sums == pytest.approx(expected, abs=1e-5)
    assert abs(sums["margin"] - by_hand(mixed, live, {})["margin"]) > 1e-4, "own critiques change the scores"


WRITING: dict[str, Any] = {"instruction": INSTRUCTION, "max_new_tokens": 5, "batch_size": 7}


def test_own_share_one_learns_no_critique_at_all(checkout: Path, live: Preprocessor, tmp_path: Path) -> None:
    task = begun(made(checkout, own_share=1.0), 1, tmp_path)
    own = read_json(critiques_file(tmp_path, 1))
    assert own.keys() == {query.id for query in training_queries()}
    sums = step_sums(task, 1)
    assert sums == pytest.approx(by_hand(task, live, own), abs=1e-5)
    assert sums["loss/critique"] == 0
    assert all(counts.critiques == 0 for _, counts in task.epoch_plan(1)[0].micros[0])


def test_own_share_zero_is_the_annotated_step(checkout: Path, live: Preprocessor, tmp_path: Path) -> None:
    task = begun(made(checkout, own_share=0.0), 1, tmp_path)
    assert step_sums(task, 1) == pytest.approx(by_hand(task, live, {}), abs=1e-5)
    assert list(tmp_path.iterdir()) == []


def test_targets_are_the_critiques_that_are_learned(mixed: RewardTask, tmp_path: Path) -> None:
    begun(mixed, 1, tmp_path)
    chosen = own_queries(5, 0.4, SEED, 1)
    for index, query in enumerate(training_queries()):
        batch = mixed.batch(([index], StepCounts(1, 1, 1)))["batch"]
        expected: list[int] = []
        for response in query.responses:
            if response.critique and index not in chosen:
                expected += mixed.preprocessor.critique_ids(response.critique)
        assert batch.target_T.tolist() == expected
        assert set(batch.branch_T.tolist()) == {n for n, r in enumerate(query.responses) if r.critique and index not in chosen}


def test_step_counts_its_pairs_ties_and_learned_critiques(mixed: RewardTask, annotated: RewardTask) -> None:
    # 4 + 2 + 3 + 3 + 4 responses; 1 of the first query and the 3 of the third have no critique.
    for task, epoch in ((annotated, 0), (annotated, 1), (mixed, 0)):
        assert {micro[1] for micro in task.epoch_plan(epoch)[0].micros[0]} == {StepCounts(17, 2, 12)}
    own = own_queries(5, 0.4, SEED, 1)
    left = sum(bool(r.critique) for index, query in enumerate(training_queries()) if index not in own for r in query.responses)
    assert left < 12
    assert {micro[1] for micro in mixed.epoch_plan(1)[0].micros[0]} == {StepCounts(17, 2, left)}


@pytest.mark.parametrize(("per_step", "ranks", "epoch"), [(5, 1, 0), (2, 1, 1), (2, 2, 0)])
def test_plan_deals_the_queries_by_their_lengths(checkout: Path, live: Preprocessor, per_step: int, ranks: int, epoch: int) -> None:
    task = RewardTask(settings_of(checkout, {"ranks": ranks}, queries_per_step=per_step, critique_source="annotated"), Checkout(checkout))
    lengths = []
    for query in training_queries():
        branches = [len(live.judge_ids(r.text)) + len(live.critique_ids(r.critique or "")) for r in query.responses]
        lengths.append(len(live.judge_root(query, INSTRUCTION).input_ids) + sum(branches))
    plan = plan_epoch(lengths, seed=SEED, epoch=epoch, queries_per_step=per_step, ranks=ranks, row_tokens=400, batch_rows=1)
    steps = task.epoch_plan(epoch)
    check_plan(steps, ranks, len(plan))
    assert [[[micro for micro, _ in rank] for rank in step.micros] for step in steps] == plan
    rows = training_queries()
    for step, planned in zip(steps, plan, strict=True):
        members = [rows[index] for rank in planned for micro in rank for index in micro]
        counts = StepCounts(
            sum(len(q.pairs()) for q in members),
            sum(len(q.ties()) for q in members),
            sum(bool(r.critique) for q in members for r in q.responses),
        )
        assert {micro[1] for rank in step.micros for micro in rank} == {counts}


def test_batch_numbers_comparisons_over_all_its_branches(annotated: RewardTask, tmp_path: Path) -> None:
    batch = begun(annotated, 0, tmp_path).batch(([4, 1, 2], StepCounts(8, 2, 3)))["batch"]
    # Ranks 1 2 2 3, then 2 1, then 1 1 2: branches 0 to 3, 4 and 5, 6 to 8.
    assert batch.comparisons.pair_P2.tolist() == [[0, 1], [0, 2], [0, 3], [1, 3], [2, 3], [5, 4], [6, 8], [7, 8]]
    assert batch.comparisons.tie_S2.tolist() == [[1, 2], [6, 7]]
    assert batch.counts == StepCounts(8, 2, 3)
    assert batch.branches == 9


def test_batch_without_ties_has_an_empty_table_of_them(annotated: RewardTask, tmp_path: Path) -> None:
    batch = begun(annotated, 0, tmp_path).batch(([1], StepCounts(1, 0, 2)))["batch"]
    assert batch.comparisons.tie_S2.shape == (0, 2)
    assert batch.comparisons.tie_S2.dtype == torch.long


def test_rows_of_a_batch_hold_the_set_number_of_tokens(checkout: Path, tmp_path: Path) -> None:
    for row_tokens, rows in ((150, 2), (4000, 1)):
        task = RewardTask(settings_of(checkout, {"row_tokens": row_tokens}), Checkout(checkout))
        batch = begun(task, 0, tmp_path).batch(([0, 4], StepCounts(1, 1, 1)))["batch"]
        assert batch.input_ids_RL.shape[0] == rows


def test_empty_micro_batch_learns_nothing_and_has_no_gradient(mixed: RewardTask, tmp_path: Path) -> None:
    batch = begun(mixed, 0, tmp_path).batch(([], StepCounts(17, 2, 12)))
    prepared = batch["batch"]
    assert (len(prepared.target_T), len(prepared.comparisons.pair_P2), len(prepared.comparisons.tie_S2)) == (0, 0, 0)
    assert prepared.branches == 4, "the first query runs, so that no rank waits"
    mixed.model.zero_grad()
    loss, metrics = mixed.loss(mixed.model(**batch), batch)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert not any(value.item() for value in metrics.values())
    assert not any(parameter.grad.any() for parameter in mixed.model.parameters() if parameter.grad is not None)
    mixed.model.zero_grad()


def test_own_critiques_are_named_by_digest_for_checkpoints(mixed: RewardTask, tmp_path: Path) -> None:
    context = OneProcess(0, 1, tmp_path)
    mixed.begin_epoch(1, context)
    path = tmp_path / "critiques" / "epoch-1.json"
    assert context.extra == {"critiques": {"epoch": 1, "file": "critiques/epoch-1.json", "sha256": digest_file(path)}}
    assert read_json(path).keys() == {training_queries()[index].id for index in own_queries(5, 0.4, SEED, 1)}


def test_next_epoch_forgets_the_critiques_of_the_one_before(mixed: RewardTask, live: Preprocessor, tmp_path: Path) -> None:
    begun(mixed, 1, tmp_path)
    begun(mixed, 0, tmp_path)
    assert step_sums(mixed, 0) == pytest.approx(by_hand(mixed, live, {}), abs=1e-5)


def test_resumed_epoch_uses_the_critiques_that_it_began_with(
    mixed: RewardTask, live: Preprocessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [training_queries()[index] for index in own_queries(5, 0.4, SEED, 1)]
    stored = {query.id: [f"Critique {n}." for n in range(len(query.responses))] for query in chosen}
    path = critiques_file(tmp_path, 1)
    write_json(path, stored)
    context = OneProcess(0, 1, tmp_path, {"critiques": {"epoch": 1, "file": "critiques/epoch-1.json", "sha256": digest_file(path)}})
    monkeypatch.setattr(task_module, "write_part_files", None)  # a call would raise TypeError
    mixed.begin_epoch(1, context)
    assert context.barriers == 0
    assert step_sums(mixed, 1) == pytest.approx(by_hand(mixed, live, stored), abs=1e-5)


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_resume_without_its_critiques_is_refused(mixed: RewardTask, tmp_path: Path, damage: str) -> None:
    context = OneProcess(0, 1, tmp_path)
    mixed.begin_epoch(1, context)
    path = critiques_file(tmp_path, 1)
    if damage == "changed":
        write_json(path, {**read_json(path), "q9": ["another"]})
    else:
        path.unlink()
    with pytest.raises(StageFault, match=r"epoch-1\.json is not what the checkpoint was trained on"):
        mixed.begin_epoch(1, OneProcess(0, 1, tmp_path, context.extra))


def test_checkpoint_of_the_epoch_before_gets_new_critiques(mixed: RewardTask, tmp_path: Path) -> None:
    context = OneProcess(0, 1, tmp_path)
    mixed.begin_epoch(1, context)
    critiques_file(tmp_path, 1).unlink()
    mixed.begin_epoch(2, context)
    assert context.extra["critiques"]["epoch"] == 2
    assert read_json(critiques_file(tmp_path, 2)).keys() == {training_queries()[index].id for index in own_queries(5, 0.4, SEED, 2)}


def test_own_critiques_are_written_as_set_with_whole_weights(mixed: RewardTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    whole: list[str] = []
    decode = writer.decode

    def spied(*arguments: Any, **named: Any) -> Any:
        assert whole == ["in"]
        calls.append(named)
        return decode(*arguments, **named)

    @contextlib.contextmanager
    def whole_weights() -> Iterator[None]:
        whole.append("in")
        yield
        whole.append("out")

    monkeypatch.setattr(writer, "decode", spied)
    mixed.begin_epoch(1, OneProcess(0, 1, tmp_path, whole_weights=whole_weights))
    assert [(call["max_new_tokens"], call["batch_size"]) for call in calls] == [(5, 7)]
    assert whole == ["in", "out"]


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_meet_before_and_after_the_first_joins_the_parts(
    mixed: RewardTask, tmp_path: Path, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_critiques, "PART_QUERIES", 1)
    chosen = own_queries(5, 0.4, SEED, 1)
    rows = training_queries()
    folder = tmp_path / "critiques"
    seen: list[list[str]] = []

    def meet(number: int) -> None:
        seen.append(sorted(path.name for path in folder.glob("*")))
        other = 1 - rank  # its part, and the join where it leads
        if number == 1:
            write_json(folder / f"epoch-1-part-{other}.json", {rows[chosen[other]].id: ["Other."] * len(rows[chosen[other]].responses)})
        elif rank == 1:
            parts = [read_json(folder / f"epoch-1-part-{part}.json") for part in range(2)]
            write_json(folder / "epoch-1.json", parts[0] | parts[1])

    context = OneProcess(rank, 2, tmp_path)
    context.meet = meet
    mixed.begin_epoch(1, context)
    both = ["epoch-1-part-0.json", "epoch-1-part-1.json"]
    assert seen == [[f"epoch-1-part-{rank}.json"], [*both, "epoch-1.json"] if rank == 0 else both]
    assert read_json(folder / "epoch-1.json")[rows[chosen[1 - rank]].id][0] == "Other."


def test_calibration_queries_are_left_out_of_training(checkout: Path) -> None:
    share = 0.6
    expected = [query.id for query in training_queries() if not is_calibration(query.id, share)]
    assert 0 < len(expected) < 5
    task = RewardTask(settings_of(checkout, calibration_share=share), Checkout(checkout))
    assert [query.id for query in task.queries] == expected
    assert sorted(index for micro, _ in task.epoch_plan(0)[0].micros[0] for index in micro) == list(range(len(expected)))


@contextlib.contextmanager
def holding(checkout: Path, rows: list[Query]) -> Iterator[None]:
    """Inside, the training table has `rows`."""
    path = Checkout(checkout).queries("train")
    before = path.read_bytes()
    write_queries(path, rows)
    try:
        yield
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("calibration_share", [0.0, 0.999])
def test_only_ties_or_only_calibration_queries_are_refused(checkout: Path, calibration_share: float) -> None:
    tied = [replace(query, responses=tuple(replace(r, rank=1) for r in query.responses)) for query in training_queries()]
    with (
        holding(checkout, tied if calibration_share == 0 else training_queries()),
        pytest.raises(UserError, match="two responses of different rank"),
    ):
        RewardTask(settings_of(checkout, calibration_share=calibration_share), Checkout(checkout))


def test_one_query_with_a_pair_is_enough(checkout: Path) -> None:
    rows = [replace(q, responses=tuple(replace(r, rank=1) for r in q.responses)) if q.id != "q3" else q for q in training_queries()]
    with holding(checkout, rows):
        assert len(RewardTask(settings_of(checkout), Checkout(checkout)).queries) == 5


def test_task_starts_from_the_base_with_seeded_head_frozen_tower(checkout: Path) -> None:
    task = RewardTask(settings_of(checkout, epochs=4), Checkout(checkout))
    assert isinstance(task, RewardTask)
    assert task.epochs == 4
    torch.manual_seed(SEED)
    expected = ScoreHead(32).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in task.model.head.state_dict().items())
    for name, parameter in task.model.named_parameters():
        assert parameter.requires_grad == ("vision_tower" not in name)
    assert task.preprocessor.features is not None, "the frozen tower's outputs are cached"


def test_export_writes_what_scoring_opens(annotated: RewardTask, checkout: Path, tmp_path: Path) -> None:
    task = RewardTask(settings_of(checkout), Checkout(checkout))
    with torch.no_grad():
        task.model.head.out.bias.fill_(0.75)
    task.export(tmp_path)
    opened = load_reward_model(tmp_path)
    assert opened.head.out.bias.item() == 0.75
    assert (tmp_path / "tokenizer.json").read_bytes() == (annotated.base / "tokenizer.json").read_bytes()
