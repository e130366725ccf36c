"""The decoder on a checkpoint of every family, against transformers' own generate and forward with pixels, one response at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from components.errors import UserError
from components.generation import continuation
from components.generation.decoding import can_decode, continue_prompts, decode
from components.generation.generate import generate
from tests.families.checkpoints import BUILDERS
from tests.families.prompts import PROMPTS, Opened, Prompt
from tests.families.test_conformance import open_folder

SOME = [PROMPTS[name] for name in ("image", "images", "odd video", "text")]
AFTER = ["", "It is a", "Yes, since "]  # the responses that are judged
LIMIT = 8

three_axes = pytest.mark.parametrize("opened", ["qwen2_5_vl", "qwen2_vl", "qwen3_vl"], indirect=True)


@pytest.fixture(scope="module", params=sorted(BUILDERS))
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """A random model with an untied head and large weights: else it repeats its last token."""
    opened = open_folder(BUILDERS[request.param](tmp_path_factory.mktemp(request.param)))
    torch.manual_seed(1)
    opened.model.lm_head.weight = torch.nn.Parameter(torch.randn_like(opened.model.lm_head.weight))
    for name, weight in opened.model.model.language_model.named_parameters():
        if name.endswith("proj.weight"):
            torch.nn.init.normal_(weight, std=0.3)
    return opened


def suffixes(opened: Opened) -> list[list[int]]:
    return [opened.preprocessor.tokenizer(text, add_special_tokens=False)["input_ids"] for text in AFTER]


def plain(opened: Opened, prompt: Prompt, suffix: Sequence[int], end: int) -> list[int]:
    """What transformers' generate writes after the prompt, which it reads with its pixels."""
    encoded = opened.encoded(prompt, suffix)
    output = opened.model.generate(**encoded, max_new_tokens=LIMIT, do_sample=False, eos_token_id=end, pad_token_id=end)
    written = output[0, encoded["input_ids"].shape[1] :].tolist()
    return written[: written.index(end)] if end in written else written


def rows(opened: Opened) -> tuple[list[Prompt], list[Any], list[list[int]]]:
    """Every prompt with every suffix."""
    prompts = [prompt for prompt in SOME for _ in AFTER]
    roots = {prompt.question: opened.root(prompt) for prompt in SOME}
    return prompts, [roots[prompt.question] for prompt in prompts], suffixes(opened) * len(SOME)


def frequent_end(opened: Opened) -> int:
    """A token that many rows write somewhere, so that rows end early and unequally."""
    _, roots, after = rows(opened)
    written = decode(opened.model, roots, after, max_new_tokens=LIMIT, batch_size=16, end_id=opened.preprocessor.end_id)
    tokens = [token for row in written for token in set(row[1:])]
    return max(set(tokens), key=tokens.count)


@pytest.mark.parametrize("penalty", [1.0, 1.5])
@torch.no_grad()
def test_tokens_equal_generate_with_pixels(opened: Opened, penalty: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened.model.generation_config, "repetition_penalty", penalty)
    end = frequent_end(opened)
    prompts, roots, after = rows(opened)
    expected = [plain(opened, prompt, suffix, end) for prompt, suffix in zip(prompts, after, strict=True)]
    for interval in (1, 3, 8):
        monkeypatch.setitem(continuation.CHECK_TOKENS, "cpu", interval)
        assert decode(opened.model, roots, after, max_new_tokens=LIMIT, batch_size=7, end_id=end) == expected
    assert len({len(row) for row in expected}) > 2
    assert len({tuple(row) for row in expected}) > len(SOME)


@pytest.mark.parametrize(("slots", "values"), [(1, 1 << 24), (1 << 15, 1), (300, 1 << 24)], ids=["slots", "mask", "some"])
@torch.no_grad()
def test_rows_that_are_read_in_parts_write_the_same(opened: Opened, slots: int, values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    end = frequent_end(opened)
    _, roots, after = rows(opened)
    arguments: dict[str, Any] = {"max_new_tokens": LIMIT, "batch_size": 16, "end_id": end, "read_ends": True}
    whole = continue_prompts(opened.model, roots, after, **arguments)
    read: list[int] = []
    language = opened.preprocessor.family.language
    monkeypatch.setattr(opened.preprocessor.family, "language", lambda *arguments: read.append(len(arguments[1])) or language(*arguments))
    monkeypatch.setattr(continuation, "PASS_SLOTS", slots)
    monkeypatch.setattr(continuation, "MASK_VALUES", values)
    parts = continue_prompts(opened.model, roots, after, **arguments)
    assert [row.tokens for row in parts] == [row.tokens for row in whole]
    for one, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(one.end_H, other.end_H, rtol=1e-4, atol=1e-4)
    if slots != 300:
        assert read[: len(SOME)] == [1] * len(SOME), "each root alone"


@pytest.mark.parametrize("interval", [1, 3])
@torch.no_grad()
def test_end_states_are_models_own(opened: Opened, interval: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(continuation.CHECK_TOKENS, "cpu", interval)
    end = frequent_end(opened)
    prompts, roots, after = rows(opened)
    continued = continue_prompts(opened.model, roots, after, max_new_tokens=LIMIT, batch_size=7, end_id=end, read_ends=True)
    for prompt, suffix, row in zip(prompts, after, continued, strict=True):
        encoded = opened.encoded(prompt, [*suffix, *row.tokens, end])
        expected: Tensor = opened.model.model(**encoded).last_hidden_state[0, -1]
        assert row.end_H is not None
        torch.testing.assert_close(row.end_H, expected, rtol=1e-4, atol=1e-4)
    lengths = {len(row.tokens) for row in continued}
    assert LIMIT in lengths
    assert len(lengths) > 2


def test_prompt_and_picture_are_read_once(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures: list[int] = []
    vision_tower = opened.preprocessor.family.vision_tower
    monkeypatch.setattr(
        opened.preprocessor.family, "vision_tower", lambda model, media: pictures.append(len(media)) or vision_tower(model, media)
    )
    passes: list[int] = []
    root, after = opened.root(PROMPTS["image"]), suffixes(opened)
    decode(opened.model, [root] * 3, after, max_new_tokens=2, batch_size=8, end_id=1, count=lambda tokens, _: passes.append(tokens))
    assert pictures == [1]
    assert passes == [len(root.input_ids), sum(map(len, after)), 3]


class Reads(TorchDispatchMode):
    """Counts the reads of single values from the device."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_device_is_read_every_few_tokens(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(continuation.CHECK_TOKENS, "cpu", 8)
    lists: list[int] = []
    as_list: Callable[[Tensor], Any] = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: lists.append(1) or as_list(tensor))
    root, after = opened.root(PROMPTS["text"]), suffixes(opened)
    reads = []
    for tokens in (16, 32):
        lists.clear()
        with Reads() as single:
            decode(opened.model, [root] * 3, after, max_new_tokens=tokens, batch_size=8, end_id=1)
        reads.append(len(lists) + single.count)
    assert reads[1] - reads[0] == 2


@torch.no_grad()
def test_sampled_writing_follows_its_seed(opened: Opened) -> None:
    arguments: dict[str, Any] = {"max_new_tokens": 12, "batch_size": 2, "end_id": opened.preprocessor.end_id, "temperature": 1.0}
    roots = [opened.root(PROMPTS[name]) for name in ("image", "text")]
    write: Callable[[int], list[list[int]]] = lambda seed: generate(opened.model, roots, [[], []], seed=seed, **arguments)  # noqa: E731
    assert write(1) == write(1)
    assert write(1) != write(2)


@three_axes
def test_unsupported_generation_setting_is_refused(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    assert can_decode(opened.model, slots=100)
    monkeypatch.setattr(opened.model.generation_config, "no_repeat_ngram_size", 2)
    with pytest.raises(UserError, match="no_repeat_ngram_size to 2"):
        decode(opened.model, [opened.root(PROMPTS["text"])], [[]], max_new_tokens=2, batch_size=1, end_id=1)


@pytest.mark.parametrize("opened", ["qwen2_5_vl", "qwen2_vl"], indirect=True)
def test_row_beyond_sliding_window_is_refused(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    text = opened.model.config.text_config
    monkeypatch.setattr(text, "layer_types", ["sliding_attention"] * text.num_hidden_layers)
    monkeypatch.setattr(text, "sliding_window", 64)
    assert can_decode(opened.model, slots=64)
    with pytest.raises(UserError, match="see 64 tokens, fewer than a prompt and its text, 65"):
        can_decode(opened.model, slots=65)
