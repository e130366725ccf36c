from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from components.families.adapters import Root
from components.families.loading import load_model
from components.generation import continuation
from components.generation.continuation import SingleProcess, in_parts, rows_together
from components.generation.decoding import can_decode, continue_prompts, decode
from components.generation.generate import generate
from components.preferences.release import query_from_row
from tests.tiny import pixels, preprocessor, queries, varied_model

INSTRUCTION = "Judge the answer."
Prompts = tuple[list[Root], list[list[int]]]


@pytest.fixture
def model(tiny_base: Path) -> Any:
    return varied_model(tiny_base)


@pytest.fixture
def prompts(tiny_base: Path, tiny_media: Path) -> Prompts:
    """Every response of every tiny query as a suffix to its judge's root, and every policy root alone."""
    prepared = preprocessor(tiny_base, tiny_media)
    judged = [(prepared.judge_root(query, INSTRUCTION), prepared.judge_ids(r.text)) for query in queries() for r in query.responses]
    policy: list[tuple[Root, list[int]]] = [(prepared.policy_root(query), []) for query in queries()]
    both = [row for pair in zip(judged, [*policy, *judged], strict=False) for row in pair]
    return [root for root, _ in both], [suffix for _, suffix in both]


def both_ways(model: Any, prompts: Prompts, end_id: int) -> tuple[Sequence[list[int]], Sequence[list[int]]]:
    roots, suffixes = prompts
    expected = generate(model, roots, suffixes, max_new_tokens=12, batch_size=64, end_id=end_id)
    return decode(model, roots, suffixes, max_new_tokens=12, batch_size=9, end_id=end_id), expected


def test_tokens_equal_generate_with_unequal_row_ends(model: Any, prompts: Prompts) -> None:
    decoded, expected = both_ways(model, prompts, end_id=2)
    assert decoded == expected
    # What many rows write somewhere serves as the end, so that rows leave the batch.
    written = [token for row in expected for token in set(row)]
    decoded, expected = both_ways(model, prompts, end_id=max(set(written), key=written.count))
    assert decoded == expected
    assert len({len(row) for row in expected}) > 3


@pytest.mark.filterwarnings("ignore:Passing `.*` with `inputs_embeds`:UserWarning")
def test_settings_beyond_a_penalty_use_generate(model: Any, prompts: Prompts) -> None:
    plain, _ = both_ways(model, prompts, end_id=2)
    model.generation_config.repetition_penalty = 1.5
    assert can_decode(model, slots=100)
    penalized, _ = both_ways(model, prompts, end_id=2)
    assert penalized != plain
    model.generation_config.repetition_penalty = 1.0
    model.generation_config.no_repeat_ngram_size = 2
    assert not can_decode(model, slots=100)
    decoded, expected = both_ways(model, prompts, end_id=2)
    assert decoded == expected


def test_root_is_read_once_and_passes_are_counted(model: Any, prompts: Prompts) -> None:
    root, suffixes = prompts[0][0], [[5, 6], [7], [8, 9, 10]]
    passes: list[tuple[int, int]] = []
    decoded = decode(
        model, [root] * 3, suffixes, max_new_tokens=3, batch_size=8, end_id=2, count=lambda tokens, slots: passes.append((tokens, slots))
    )
    assert [len(row) for row in decoded] == [3, 3, 3]
    assert passes == [(len(root.input_ids), len(root.input_ids)), (6, 9), (3, 3), (3, 3)]


def test_process_matches_passes_of_busier_one(model: Any, prompts: Prompts) -> None:
    class Longer(SingleProcess):
        """Another process with one batch more, a suffix of nine tokens, and no row that ends."""

        def most(self, count: int) -> int:
            return max(count, 9) if count != 1 else 2

        def any(self, wanted: bool) -> bool:  # noqa: ARG002
            return True

    roots, suffixes = prompts[0][:6], prompts[1][:6]
    passes: list[int] = []
    arguments: dict[str, Any] = {"max_new_tokens": 8, "batch_size": 8, "end_id": 2}
    single = decode(model, roots, suffixes, **arguments)
    together = decode(model, roots, suffixes, **arguments, step=Longer(), count=lambda tokens, _: passes.append(tokens))
    assert together == single
    assert len(passes) == 2 * (1 + 1 + 7)


def test_pass_has_bounds_of_slots_and_of_its_mask() -> None:
    assert rows_together(100, 100) == 327  # 2^15 slots
    assert rows_together(1000, 1000) == 16  # 2^24 values of a mask
    assert rows_together(40, 10_240) == 40
    assert rows_together(10_240, 10_240) == rows_together(40_000, 40_000) == 1


def test_process_with_fewer_parts_runs_its_last_one_again() -> None:
    class Fourth(SingleProcess):
        """Another process with four parts."""

        def most(self, count: int) -> int:
            return max(count, 4)

    assert list(in_parts(5, 2, SingleProcess())) == [(slice(0, 2), True), (slice(2, 4), True), (slice(4, 6), True)]
    assert list(in_parts(5, 3, Fourth())) == [(slice(0, 3), True), (slice(3, 6), True), (slice(3, 6), False), (slice(3, 6), False)]


def test_process_in_parts_writes_the_same_beside_a_busier_one(model: Any, prompts: Prompts, monkeypatch: pytest.MonkeyPatch) -> None:
    class Busier(SingleProcess):
        """Another process with one part and one batch more each time."""

        def most(self, count: int) -> int:
            return count + 1

    roots, suffixes = prompts[0][:6], prompts[1][:6]
    arguments: dict[str, Any] = {"max_new_tokens": 8, "batch_size": 8, "end_id": 2}
    single = decode(model, roots, suffixes, **arguments)
    monkeypatch.setattr(continuation, "PASS_SLOTS", 250)
    assert decode(model, roots, suffixes, **arguments, step=Busier()) == single


def test_end_token_is_read_after_written_and_cut_rows(model: Any, prompts: Prompts) -> None:
    roots, suffixes = prompts
    plain = decode(model, roots, suffixes, max_new_tokens=5, batch_size=9, end_id=2)
    written = [token for row in plain for token in set(row)]
    end_id = max(set(written), key=written.count)
    expected = decode(model, roots, suffixes, max_new_tokens=5, batch_size=9, end_id=end_id)
    continued = continue_prompts(model, roots, suffixes, max_new_tokens=5, batch_size=9, end_id=end_id, read_ends=True)
    assert [row.tokens for row in continued] == expected
    assert {len(row) for row in expected} >= {0, 5}
    for root, suffix, row in zip(roots, suffixes, continued, strict=True):
        with torch.no_grad():
            ids = torch.tensor([[*root.input_ids, *suffix, *row.tokens, end_id]])
            hidden = model.model(input_ids=ids, **pixels(root)).last_hidden_state[0, -1]
        assert row.end_H is not None
        torch.testing.assert_close(row.end_H, hidden, rtol=1e-4, atol=1e-4)


def test_model_mode_and_attention_are_restored(model: Any, prompts: Prompts) -> None:
    model.train()
    model.config.text_config._attn_implementation = "flex_attention"
    decode(model, prompts[0][:2], prompts[1][:2], max_new_tokens=2, batch_size=8, end_id=2)
    assert model.training
    assert model.config.text_config._attn_implementation == "flex_attention"


def test_bundled_base_writes_same_answers_and_critiques(base: Path, data: Path) -> None:
    lines = (data / "preferences/heldout.jsonl").read_text(encoding="utf-8").splitlines()[::40]
    chosen = [query_from_row(json.loads(line)) for line in lines]
    prepared, model = preprocessor(base, data / "preferences"), load_model(base)
    roots = [prepared.policy_root(query) for query in chosen]
    suffixes: list[list[int]] = [[] for _ in roots]
    for query in chosen:
        roots += [prepared.judge_root(query, INSTRUCTION)] * len(query.responses)
        suffixes += [prepared.judge_ids(response.text) for response in query.responses]
    decoded = decode(model, roots, suffixes, max_new_tokens=24, batch_size=64, end_id=prepared.end_id)
    expected = generate(model, roots, suffixes, max_new_tokens=24, batch_size=64, end_id=prepared.end_id)
    assert len(decoded) > 60
    assert sum(row != other for row, other in zip(decoded, expected, strict=True)) == 0
    assert torch.get_default_dtype() == torch.float32
