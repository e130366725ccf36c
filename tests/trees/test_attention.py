"""The two attention paths give the same numbers, and refuse models that would misread a tree."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_mask, flex_attention
from transformers import Qwen2Config

from components.errors import UserError
from components.families.loading import load_model
from components.families.processing import Preprocessor
from components.trees import attention
from components.trees.attention import BLOCK, AttentionPath, attention_path, flex_forward, to_blocks, tree_block_mask
from components.trees.logprobs import TreeModel, tree_hidden
from components.trees.scoring import policy_tree
from components.trees.trees import PADDING, Tree, TreeBatch, build_batch
from tests.tiny import preprocessor, queries


@pytest.fixture(scope="module")
def trees(tiny_base: Path, tiny_media: Path) -> list[Tree]:
    prepared: Preprocessor = preprocessor(tiny_base, tiny_media)
    return [policy_tree(prepared, query) for query in queries()]


@pytest.fixture(scope="module")
def sdpa(tiny_base: Path) -> Any:
    return load_model(tiny_base)


@pytest.fixture(scope="module")
def flex(tiny_base: Path) -> Any:
    return load_model(tiny_base, attention="flex_attention")


@pytest.fixture
def batch(trees: list[Tree]) -> TreeBatch:
    return build_batch(trees, 300, "cpu", 0)


def test_flex_attention_gives_what_sdpa_gives(sdpa: Any, flex: Any, batch: TreeBatch) -> None:
    assert batch.input_ids_RL.shape[1] % BLOCK, "padding to blocks has to be needed"
    weights_K = torch.linspace(-1, 1, batch.branches)
    sums = [TreeModel(model)(batch) for model in (sdpa, flex)]
    torch.testing.assert_close(sums[1], sums[0], rtol=1e-6, atol=1e-5)
    expected, actual = (
        torch.autograd.grad((one * weights_K).sum(), [p for p in model.parameters() if p.requires_grad], allow_unused=True)
        for one, model in zip(sums, (sdpa, flex), strict=True)
    )
    scale = max(float(gradient.abs().max()) for gradient in expected if gradient is not None)
    for one, other in zip(actual, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert float((one - other).abs().max()) <= 5e-5 * scale


def test_flex_operator_itself_gives_what_sdpa_gives(sdpa: Any, flex: Any, batch: TreeBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def uncompiled(*states: Tensor, **arguments: Any) -> Tensor:
        calls.append(arguments["block_mask"].shape)
        return flex_attention(*states, **arguments)  # type: ignore[return-value]

    monkeypatch.setattr(attention, "dense_attention", uncompiled)
    with torch.no_grad():
        torch.testing.assert_close(TreeModel(flex)(batch), TreeModel(sdpa)(batch), rtol=1e-6, atol=1e-5)
    rows, length = to_blocks(batch.tree_RL).shape
    assert calls == [(rows, 1, length, length)] * 2  # once a layer


def test_operator_is_not_compiled_for_every_length(sdpa: Any, flex: Any, trees: list[Tree], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a backend that counts its graphs: torch 2.15's C++ for a CPU does not compile if a mask reads tensors."""
    graphs = []

    def backend(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    monkeypatch.setattr(attention, "dense_attention", attention._compiled.__wrapped__())
    lengths = set()
    with torch.no_grad():
        for row_tokens in (200, 300, 450, 600, 700):
            batch = build_batch(trees * 3, row_tokens, "cpu", 0)
            torch.testing.assert_close(TreeModel(flex)(batch), TreeModel(sdpa)(batch), rtol=1e-6, atol=1e-5)
            lengths.add(to_blocks(batch.tree_RL).shape[1])
    assert len(lengths) == 5
    assert len(graphs) <= 2  # the second where the first had as many blocks as heads, which the compiler takes for one size


def test_both_masks_allow_same_positions(batch: TreeBatch) -> None:
    tree_RL, branch_RL = to_blocks(batch.tree_RL, PADDING), to_blocks(batch.branch_RL)
    rows, length = tree_RL.shape
    block_mask = tree_block_mask(tree_RL, branch_RL)
    allowed_R1LL = create_mask(block_mask.mask_mod, rows, None, length, length, device="cpu")
    own = batch.input_ids_RL.shape[1]
    assert torch.equal(allowed_R1LL[..., :own, :own], batch.mask_R1LL(torch.float32) == 0)
    computed_R1BB = block_mask.to_dense().bool()
    needed_R1BB = allowed_R1LL.unflatten(3, (-1, BLOCK)).any(-1).unflatten(2, (-1, BLOCK)).any(3)
    assert torch.equal(computed_R1BB, needed_R1BB)


@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (4, 2), (14, 2), (28, 4)])
def test_any_head_count_shares_keys(heads: int, key_heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    tree_RL, branch_RL = torch.zeros(1, BLOCK, dtype=torch.long), (torch.arange(BLOCK) // 50)[None]
    query, key, value = (torch.randn(1, count, BLOCK, 8) for count in (heads, key_heads, key_heads))
    keys, values = (states.repeat_interleave(heads // key_heads, 1) for states in (key, value))
    blocks = tree_block_mask(tree_RL, branch_RL)
    mask = create_mask(blocks.mask_mod, 1, None, BLOCK, BLOCK, device="cpu")
    expected = ((query @ keys.mT * 0.5).masked_fill(~mask, -torch.inf).softmax(-1) @ values).transpose(1, 2)
    torch.testing.assert_close(flex_forward(nn.Module(), query, key, value, blocks, scaling=0.5)[0], expected)
    read: list[int] = []

    def operator(query: Tensor, key: Tensor, value: Tensor, **arguments: Any) -> Any:
        read.extend((key.shape[1], value.shape[1]))
        return flex_attention(query, key, value, **arguments)

    monkeypatch.setattr(attention, "dense_attention", operator)
    torch.testing.assert_close(flex_forward(nn.Module(), query, key, value, blocks, scaling=0.5)[0], expected)
    assert read == [key_heads, key_heads]  # none is repeated in memory


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("path", ["sdpa", "flex_attention"])
def test_padding_rows_change_no_values(path: str, dtype: torch.dtype, tiny_base: Path, trees: list[Tree]) -> None:
    model = load_model(tiny_base, attention=path, dtype=dtype)
    unpadded = build_batch(trees[2:3], 1, "cpu", 0)
    padded = build_batch(trees[2:3], 1, "cpu", 0)
    padded.input_ids_RL = torch.cat([padded.input_ids_RL, torch.zeros_like(padded.input_ids_RL)])
    padded.position_ids_RL = torch.cat([padded.position_ids_RL, torch.zeros_like(padded.position_ids_RL)])
    padded.tree_RL = torch.cat([padded.tree_RL, torch.full_like(padded.tree_RL, PADDING)])
    padded.branch_RL = torch.cat([padded.branch_RL, torch.zeros_like(padded.branch_RL)])
    sums_K = TreeModel(model)(padded)
    torch.testing.assert_close(sums_K, TreeModel(model)(unpadded), rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-5)
    assert bool(tree_hidden(model, padded).isfinite().all())
    sums_K.sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fully_masked_token_gives_finite_numbers(dtype: torch.dtype) -> None:
    states = torch.randn(1, 2, 4, 8, dtype=dtype)
    mask = torch.full((1, 1, 4, 4), torch.finfo(dtype).min, dtype=dtype)
    assert bool(nn.functional.scaled_dot_product_attention(states, states, states, attn_mask=mask).isfinite().all())


def text_config(**values: Any) -> Any:
    """A model's config with a text config of these values, attending by sdpa."""
    config = Qwen2Config(**{"num_hidden_layers": 2, "attn_implementation": "sdpa", **values})
    return type("Model", (nn.Module,), {"config": type("Config", (), {"text_config": config})})()


@pytest.mark.parametrize("implementation", ["eager", "flash_attention_2", "flash_attention_3"])
def test_other_attention_is_refused(implementation: str) -> None:
    with pytest.raises(ValueError, match=f"sdpa or flex attention: '{implementation}'"):
        attention_path(text_config(attn_implementation=implementation))


def test_sliding_windows_are_refused_unless_they_cover_row() -> None:
    path = attention_path(text_config(use_sliding_window=True, sliding_window=64, max_window_layers=1))
    assert path == AttentionPath(flex=False, window=64)
    rows = torch.zeros(2, 64, dtype=torch.long)
    path.check_batch(rows, rows)
    longer = torch.zeros(2, 65, dtype=torch.long)
    with pytest.raises(UserError, match=r"64 tokens, fewer than a packed row of 65: set training\.row_tokens"):
        path.check_batch(longer, longer)


def test_unused_window_is_ignored() -> None:
    assert attention_path(text_config(use_sliding_window=False, sliding_window=64)).window is None
    assert attention_path(text_config(use_sliding_window=True, sliding_window=64, max_window_layers=2)).window is None


def test_tree_in_sliding_window_is_refused_in_model(tiny_base: Path, trees: list[Tree]) -> None:
    model = load_model(tiny_base)
    model.config.text_config.layer_types = ["full_attention", "sliding_attention"]
    model.config.text_config.sliding_window = 16
    with pytest.raises(UserError, match="sliding-window"):
        TreeModel(model)(build_batch(trees[:1], 1, "cpu", 0))


def test_stateful_layers_are_refused() -> None:
    model = text_config()
    model.config.text_config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(ValueError, match="linear_attention"):
        attention_path(model)


def test_missing_positions_are_refused(sdpa: Any, trees: list[Tree]) -> None:
    batch = build_batch(trees[:1], 1, "cpu", 0)
    batch.position_ids_RL = batch.position_ids_RL[:, :-1]
    with pytest.raises(ValueError, match="position"):
        TreeModel(sdpa)(batch)
    batch.position_ids_RL = None  # type: ignore[assignment]
    with pytest.raises(ValueError, match="position"):
        TreeModel(sdpa)(batch)


@pytest.mark.parametrize(
    "mask", [torch.ones(1, 1, BLOCK, BLOCK, dtype=torch.bool), torch.zeros(1, 1, BLOCK, BLOCK)], ids=["bool", "additive"]
)
def test_flex_attention_with_plain_mask_is_refused(mask: Tensor, flex: Any) -> None:
    attention_path(flex)
    with pytest.raises(ValueError, match="BlockMask"):
        flex.model.language_model(
            inputs_embeds=torch.zeros(1, BLOCK, 32), attention_mask={"full_attention": mask}, position_ids=torch.arange(BLOCK)[None]
        )


def test_flex_attention_refuses_partial_blocks_and_dropout() -> None:
    ids = torch.zeros(1, BLOCK - 1, dtype=torch.long)
    with pytest.raises(ValueError, match="multiple of 128"):
        tree_block_mask(ids, ids)
    states, whole = torch.randn(1, 1, BLOCK, 8), torch.zeros(1, BLOCK, dtype=torch.long)
    blocks = tree_block_mask(whole, whole)
    with pytest.raises(ValueError, match="dropout"):
        flex_forward(nn.Module(), states, states, states, blocks, dropout=0.1)
    with pytest.raises(ValueError, match="softcap"):
        flex_forward(nn.Module(), states, states, states, blocks, softcap=30.0)


def test_model_is_examined_once(tiny_base: Path, trees: list[Tree], monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = load_model(tiny_base), []
    examine = attention.examine
    monkeypatch.setattr(attention, "examine", lambda one: seen.append(one) or examine(one))
    for _ in range(3):
        with torch.no_grad():
            TreeModel(model)(build_batch(trees[:1], 1, "cpu", 0))
    assert seen == [model]
