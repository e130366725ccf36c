"""Where a critique comes from and where its score is read: by a plain greedy loop, and with the rows that a decoder may return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from components.families.processing import Preprocessor
from components.generation import critiques as writer
from components.generation.continuation import Continued
from components.generation.critiques import write_critiques
from components.preferences.record import Query
from components.reward import judging
from components.reward.judging import write_and_score
from components.reward.model import RewardModel
from components.reward.scoring import Judged
from tests.tiny import pixels, queries

QUERY = queries()[2]
ITEMS = [(QUERY, "Yes."), (queries()[0], "No."), (QUERY, "Maybe")]
HIDDEN = 32
LIMIT = 4  # new tokens


class Neighbour:
    """Another process that needs another pass where `wants`, and as many batches as this one."""

    def __init__(self, wants: bool) -> None:
        self.wants = wants
        self.votes: list[bool] = []

    def most(self, count: int) -> int:
        return count

    def any(self, wanted: bool) -> bool:
        self.votes.append(wanted)
        return wanted or self.wants


def greedy(reward: RewardModel, prepared: Preprocessor, query: Query, response: str, limit: int, *, blank: bool = False) -> str:
    """The likeliest next token again and again, each from a pass over everything before it."""
    root = prepared.judge_root(query, "Judge.", blank=blank)
    tokens = [*root.input_ids, *prepared.judge_ids(response)]
    written: list[int] = []
    with torch.no_grad():
        while len(written) < limit:
            hidden_LH = reward.model.model(input_ids=torch.tensor([[*tokens, *written]]), **pixels(root)).last_hidden_state[0]
            best = int(reward.model.lm_head(hidden_LH[-1]).argmax())
            if best == prepared.end_id:
                break
            written.append(best)
    return str(prepared.tokenizer.decode(written, skip_special_tokens=True))


@pytest.mark.parametrize(("limit", "blank"), [(1, False), (3, False), (3, True)])
def test_critique_is_the_greedy_text_of_at_most_the_set_tokens(
    writer: RewardModel, tiny_preprocessor: Preprocessor, limit: int, blank: bool
) -> None:
    critiques = write_critiques(
        writer.model, tiny_preprocessor, ITEMS, instruction="Judge.", max_new_tokens=limit, batch_size=2, blank=blank
    )
    assert critiques == [greedy(writer, tiny_preprocessor, query, text, limit, blank=blank) for query, text in ITEMS]
    assert len(set(critiques)) > 1


def test_progress_is_reported_batch_by_batch(writer: RewardModel, tiny_preprocessor: Preprocessor) -> None:
    calls: list[tuple[int, int]] = []
    write_critiques(
        writer.model,
        tiny_preprocessor,
        ITEMS,
        instruction="Judge.",
        max_new_tokens=1,
        batch_size=2,
        progress=lambda *counts: calls.append(counts),
    )
    assert calls == [(2, 3), (3, 3)]


def test_special_tokens_are_no_part_of_a_critique(tiny_preprocessor: Preprocessor, monkeypatch: pytest.MonkeyPatch) -> None:
    special = tiny_preprocessor.tokenizer.convert_tokens_to_ids("<image>")
    first, *_ = tiny_preprocessor.critique_ids("A")
    monkeypatch.setattr(writer, "decode", lambda *_, **__: [[first, special, first], []])
    critiques = write_critiques(None, tiny_preprocessor, ITEMS[:2], instruction="Judge.", max_new_tokens=3, batch_size=2)
    assert critiques == ["AA", ""]


class Scripted:
    """A decoder that returns `rows`, and a scorer that scores every text as 100 and its length."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rows: Sequence[Continued]) -> None:
        self.decoded: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.scored: list[tuple[list[Judged], dict[str, Any]]] = []

        def continue_prompts(*arguments: Any, **named: Any) -> list[Continued]:
            self.decoded.append((arguments, named))
            return list(rows)

        def score(_reward: Any, _preprocessor: Any, judged: list[Judged], **named: Any) -> list[float]:
            self.scored.append((judged, named))
            return [100.0 + len(item.critique) for item in judged]

        monkeypatch.setattr(judging, "continue_prompts", continue_prompts)
        monkeypatch.setattr(judging, "score", score)


def row(prepared: Preprocessor, text: str, end: float | None) -> Continued:
    """What a decoder writes for `text`, with a constant last hidden state."""
    return Continued(prepared.critique_ids(text)[:-1], None if end is None else torch.full((HIDDEN,), end))


def head_of(reward: RewardModel, end: float) -> float:
    with torch.no_grad():
        return float(reward.head(torch.full((1, HIDDEN), end)).item())


def respelled(prepared: Preprocessor, text: str, end: float) -> Continued:
    """A row whose text has other tokens than were written: a special token in it is not in the text."""
    return Continued([prepared.tokenizer.convert_tokens_to_ids("<image>"), *prepared.critique_ids(text)[:-1]], torch.full((HIDDEN,), end))


def write_all(writer: RewardModel, prepared: Preprocessor, **named: Any) -> list[tuple[str, float]]:
    return write_and_score(writer, prepared, ITEMS, instruction="Judge.", max_new_tokens=LIMIT, batch_size=2, **named)


def test_score_is_the_heads_at_the_end_of_a_written_critique(
    writer: RewardModel, tiny_preprocessor: Preprocessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row(tiny_preprocessor, text, end) for text, end in (("Right.", 0.5), ("", -1.0), ("No", 2.0))]
    scripted = Scripted(monkeypatch, rows)
    judgements = write_all(writer, tiny_preprocessor)
    assert [text for text, _ in judgements] == ["Right.", "", "No"]
    assert [value for _, value in judgements] == pytest.approx([head_of(writer, end) for end in (0.5, -1.0, 2.0)], abs=1e-6)
    assert scripted.scored == [], "nothing is read twice"


def test_critique_with_other_tokens_is_scored_on_its_text(
    writer: RewardModel, tiny_preprocessor: Preprocessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row(tiny_preprocessor, "Right.", 0.5), respelled(tiny_preprocessor, "No", 1.0), row(tiny_preprocessor, "Yes", None)]
    scripted = Scripted(monkeypatch, rows)
    judgements = write_all(writer, tiny_preprocessor)
    assert judgements == [("Right.", pytest.approx(head_of(writer, 0.5), abs=1e-6)), ("No", 102.0), ("Yes", 103.0)]
    ((judged, _),) = scripted.scored
    assert judged == [Judged(*ITEMS[1], "No"), Judged(*ITEMS[2], "Yes")]


def test_model_without_ends_has_critiques_scored_on_their_text(
    writer: RewardModel, tiny_preprocessor: Preprocessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = Scripted(monkeypatch, [row(tiny_preprocessor, text, None) for text in ("a", "bb", "ccc")])
    assert write_all(writer, tiny_preprocessor) == [("a", 101.0), ("bb", 102.0), ("ccc", 103.0)]
    assert len(scripted.scored) == 1


@pytest.mark.parametrize("blank", [False, True])
def test_decoder_and_scorer_get_the_settings_and_the_step(
    writer: RewardModel, tiny_preprocessor: Preprocessor, blank: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = Scripted(monkeypatch, [row(tiny_preprocessor, text, None) for text in ("a", "bb", "ccc")])
    step, passes = Neighbour(wants=False), []

    def count(tokens: int, slots: int, *_: int) -> None:
        passes.append((tokens, slots))

    write_all(writer, tiny_preprocessor, blank=blank, step=step, count=count)
    (((model, roots, suffixes), named),) = scripted.decoded
    assert model is writer.model
    assert list(roots) == [tiny_preprocessor.judge_root(query, "Judge.", blank=blank) for query, _ in ITEMS]
    assert list(suffixes) == [tiny_preprocessor.judge_ids(text) for _, text in ITEMS]
    limits = {"max_new_tokens": LIMIT, "batch_size": 2, "end_id": tiny_preprocessor.end_id, "read_ends": True}
    assert named == {**limits, "step": step, "count": count}
    ((_, scored),) = scripted.scored
    assert scored == {"instruction": "Judge.", "blank": blank, "step": step, "count": count}
    assert step.votes == [True]


@pytest.mark.parametrize("wants", [False, True])
def test_rank_with_all_scores_scores_one_more_for_its_neighbour(
    writer: RewardModel, tiny_preprocessor: Preprocessor, wants: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row(tiny_preprocessor, text, end) for text, end in (("Right.", 0.5), ("", -1.0), ("No", 2.0))]
    scripted = Scripted(monkeypatch, rows)
    step = Neighbour(wants)
    judgements = write_all(writer, tiny_preprocessor, step=step)
    assert [value for _, value in judgements] == pytest.approx([head_of(writer, end) for end in (0.5, -1.0, 2.0)], abs=1e-6)
    assert [judged for judged, _ in scripted.scored] == ([[Judged(*ITEMS[0], "Right.")]] if wants else [])
    assert step.votes == [False]


def test_written_scores_are_those_of_a_pass_over_the_text(writer: RewardModel, tiny_preprocessor: Preprocessor) -> None:
    passes: list[tuple[int, int]] = []
    judgements = write_all(writer, tiny_preprocessor, count=lambda *counts: passes.append(counts[:2]))
    for (query, response), (critique, value) in zip(ITEMS, judgements, strict=True):
        assert critique == greedy(writer, tiny_preprocessor, query, response, LIMIT)
        root = tiny_preprocessor.judge_root(query, "Judge.")
        tokens = [*root.input_ids, *tiny_preprocessor.judge_ids(response), *tiny_preprocessor.critique_ids(critique)]
        with torch.no_grad():
            hidden_LH = writer.model.model(input_ids=torch.tensor([tokens]), **pixels(root)).last_hidden_state[0]
            assert value == pytest.approx(writer.head(hidden_LH[-1:]).item(), abs=1e-5)
    roots = {id(query): len(tiny_preprocessor.judge_root(query, "Judge.").input_ids) for query, _ in ITEMS}
    assert sum(tokens for tokens, _ in passes) > sum(roots.values())
