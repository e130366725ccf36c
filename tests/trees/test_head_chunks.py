"""Log-probs through the head at the edges of chunks and tiles, against full softmax in fp64; and what attention allows or refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from components.errors import UserError
from components.trees import attention, logprobs
from components.trees.attention import BLOCK, AttentionPath, allowed, flex_forward, to_blocks, tree_block_mask
from components.trees.logprobs import TreeModel, branch_sums, branch_tokens, chunk_tokens, token_log_probs, token_scores

HIDDEN, VOCABULARY = 6, 12


class Wrapped(nn.Module):
    """A head that is more than one product, so that it is called as a module; counts its calls."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner
        self.sizes: list[int] = []

    def forward(self, hidden_CH: Tensor) -> Tensor:
        self.sizes.append(len(hidden_CH))
        out: Tensor = self.inner(hidden_CH)
        return out


class Subclass(nn.Linear):
    """A linear layer whose forward may do more."""

    sizes: list[int]

    def forward(self, hidden_CH: Tensor) -> Tensor:
        self.sizes.append(len(hidden_CH))
        return super().forward(hidden_CH)


def states(count: int, seed: int = 0) -> tuple[nn.Linear, Tensor, Tensor]:
    torch.manual_seed(seed)
    head = nn.Linear(HIDDEN, VOCABULARY)
    return head, 2 * torch.randn(count, HIDDEN), torch.randint(VOCABULARY, (count,))


def expected(head: nn.Linear, hidden_TH: Tensor, target_T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(log-prob, entropy, whether the target is the likeliest) from full logits in fp64."""
    log_p_TV = (hidden_TH.double() @ head.weight.double().T + head.bias.double()).log_softmax(1)
    log_prob_T = torch.stack([row[target] for row, target in zip(log_p_TV, target_T, strict=True)])
    return log_prob_T, -(log_p_TV.exp() * log_p_TV).sum(1), (log_p_TV.argmax(1) == target_T).double()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 9])
@pytest.mark.parametrize("chunk", [1, 3, 4, 9, 100])
@pytest.mark.parametrize("wrapped", [False, True], ids=["tiles", "chunks"])
def test_values_at_the_edges_of_chunks_are_those_of_full_logits(count: int, chunk: int, wrapped: bool) -> None:
    head, hidden_TH, target_T = states(count, count)
    called = Wrapped(head) if wrapped else head
    scores = token_scores(called, hidden_TH, target_T, chunk)
    log_prob_T, entropy_T, correct_T = expected(head, hidden_TH, target_T)
    torch.testing.assert_close(scores.log_prob_T.double(), log_prob_T, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores.entropy_T.double(), entropy_T, rtol=1e-4, atol=1e-5)
    assert scores.correct_T.double().tolist() == correct_T.tolist()
    assert torch.equal(token_log_probs(called, hidden_TH, target_T, chunk), scores.log_prob_T)
    if isinstance(called, Wrapped):
        whole, rest = divmod(count, chunk)
        assert called.sizes == 2 * ([chunk] * whole + ([rest] if rest else []))


@pytest.mark.parametrize("target", range(VOCABULARY))
@pytest.mark.parametrize("width", [1, 4, 5, 12])
def test_a_target_at_the_edge_of_a_tile_is_read_there(target: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    head, hidden_TH, _ = states(3)
    target_T = torch.tensor([target, 0, VOCABULARY - 1])
    monkeypatch.setattr(logprobs, "_tile_logits", lambda _: 3 * width)
    hidden_TH.requires_grad_()
    log_prob_T = token_log_probs(head, hidden_TH, target_T)
    torch.testing.assert_close(log_prob_T.double(), expected(head, hidden_TH, target_T)[0], rtol=1e-5, atol=1e-5)
    weights_T = torch.tensor([1.0, -2.0, 0.5])
    inputs = [hidden_TH, head.weight, head.bias]
    gradients = torch.autograd.grad((log_prob_T * weights_T).sum(), inputs)
    wanted = torch.autograd.grad((expected(head, hidden_TH, target_T)[0] * weights_T).sum(), inputs)
    for one, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [1, 2, 3, 6])
def test_of_equally_likely_tokens_the_first_is_predicted(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    head = nn.Linear(2, 6, bias=False)
    head.weight.data = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    monkeypatch.setattr(logprobs, "_tile_logits", lambda _: 6 * width)
    scores = token_scores(head, torch.tensor([[2.0, 0.0]] * 6), torch.arange(6))
    assert scores.correct_T.tolist() == [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]


def test_without_statistics_the_chunks_give_log_probs_alone() -> None:
    head, hidden_TH, target_T = states(4)
    log_prob_T, *others = logprobs._read_head(Wrapped(head), hidden_TH, target_T, 2, statistics=False)
    assert log_prob_T.requires_grad
    assert not any(other.requires_grad for other in others)


def test_chunks_are_computed_again_in_backward_and_once_without() -> None:
    head, hidden_TH, target_T = states(4)
    called = Wrapped(head)
    token_log_probs(called, hidden_TH, target_T, 2).sum().backward()
    assert called.sizes == [2, 2, 2, 2]
    called.sizes.clear()
    with torch.no_grad():
        token_log_probs(called, hidden_TH, target_T, 2)
    assert called.sizes == [2, 2]


def test_a_head_of_unknown_vocabulary_gets_small_chunks() -> None:
    head, hidden_TH, target_T = states(300)
    called = Wrapped(head)
    subclass = Subclass(HIDDEN, VOCABULARY)
    subclass.sizes = []
    with torch.no_grad():
        token_log_probs(called, hidden_TH, target_T)
        token_log_probs(called, hidden_TH[:0], target_T[:0])
        token_log_probs(subclass, torch.randn(1025, HIDDEN), torch.zeros(1025, dtype=torch.long))
    assert called.sizes == [128, 128, 44, 0]
    assert subclass.sizes == [1024, 1]


@pytest.mark.parametrize(
    ("vocabulary", "tokens"),
    [(1, 1024), (2**15, 1024), (2**15 + 1, 512), (2**16, 512), (2**16 + 1, 256), (2**18, 128), (2**19, 64), (2**20, 64), (2**25, 64)],
)
def test_a_chunk_s_logits_stay_within_their_bound(vocabulary: int, tokens: int) -> None:
    assert chunk_tokens(vocabulary) == tokens


@pytest.mark.parametrize(("targets", "logits"), [(1, 2**22), (2**14, 2**22), (2**14 + 1, 256 * (2**14 + 1))])
def test_tiles_on_a_cpu_are_bounded_and_never_narrow(targets: int, logits: int) -> None:
    assert logprobs._tile_logits(torch.zeros(targets, 1)) == logits
    assert logprobs._tile_logits(torch.zeros(targets, 1, device="meta")) == max(2**25, 256 * targets)


@pytest.mark.parametrize(
    ("targets", "logits", "tiles"),
    [
        (2, 8, [(0, 4), (4, 8), (8, 10)]),
        (2, 9, [(0, 4), (4, 8), (8, 10)]),
        (2, 20, [(0, 10)]),
        (5, 5, [(n, n + 1) for n in range(10)]),
        (5, 4, [(n, n + 1) for n in range(10)]),
        (0, 5, [(0, 5), (5, 10)]),
    ],
)
def test_tiles_cover_the_vocabulary(targets: int, logits: int, tiles: list[tuple[int, int]]) -> None:
    parts = logprobs._tiles(torch.zeros(10, 2), torch.zeros(targets), logits)
    assert [(part.start, part.stop) for part in parts] == tiles


@pytest.mark.parametrize("build", [nn.Linear, Subclass])
@pytest.mark.parametrize("count", [0, 1, 40])
def test_partitioned_head_is_called_once_for_any_targets(build: type[nn.Linear], count: int) -> None:
    head = build(HIDDEN, 7)
    vars(head)["sizes"] = []
    head.weight.ds_id = 0  # type: ignore[assignment]
    calls: list[int] = []
    head.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    hidden_TH, target_T = torch.randn(count, HIDDEN, requires_grad=True), torch.arange(count) % 7
    log_prob_T = token_log_probs(head, hidden_TH, target_T, chunk=4)
    assert calls == [count]
    assert "forward" not in vars(head)
    expected = nn.functional.linear(hidden_TH, head.weight, head.bias).log_softmax(1).gather(1, target_T[:, None])[:, 0]
    torch.testing.assert_close(log_prob_T, expected)


def test_head_of_several_products_is_called_in_chunks() -> None:
    head = Subclass(HIDDEN, 7)
    head.sizes = []
    with torch.no_grad():
        token_log_probs(head, torch.randn(6, HIDDEN), torch.arange(6), chunk=4)
    assert head.sizes == [4, 2]


def test_an_fp64_model_has_fp64_log_probs() -> None:
    head, hidden_TH, target_T = states(4)
    head, hidden_TH = head.double(), hidden_TH.double()
    for called in (head, Wrapped(head)):
        log_prob_T = token_log_probs(called, hidden_TH, target_T, 3)
        assert log_prob_T.dtype == torch.float64
        torch.testing.assert_close(log_prob_T, expected(head, hidden_TH, target_T)[0], rtol=1e-12, atol=1e-12)


def test_values_are_summed_and_counted_a_branch() -> None:
    batch: Any = SimpleNamespace(branches=4, branch_T=torch.tensor([2, 0, 2, 3]))
    assert branch_sums(torch.tensor([1.0, 2.0, 4.0, 8.0]), batch).tolist() == [2.0, 0.0, 5.0, 8.0]
    assert branch_sums(torch.tensor([1.0, 2.0, 4.0, 8.0]).double(), batch).dtype == torch.float64
    assert branch_tokens(batch).tolist() == [1, 0, 2, 1]


def test_a_branch_without_targets_has_zeros_and_no_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    head, _, target_T = states(3)
    batch: Any = SimpleNamespace(branches=3, branch_T=torch.tensor([0, 0, 2]), predictor_T=torch.tensor([4, 1, 2]), target_T=target_T)
    hidden_NH = torch.randn(5, HIDDEN)
    monkeypatch.setattr(logprobs, "tree_hidden", lambda *_: hidden_NH)
    model = TreeModel(SimpleNamespace(lm_head=head))
    with torch.no_grad():
        scores, sums_K = model(batch, statistics=True), model(batch)
    log_prob_T, entropy_T, correct_T = (values_T.detach() for values_T in expected(head, hidden_NH[[4, 1, 2]], target_T))
    for found_K, values_T, counts in (
        (sums_K, log_prob_T, (1, 1)),
        (scores.log_prob_K, log_prob_T, (1, 1)),
        (scores.entropy_K, entropy_T, (2, 1)),
        (scores.accuracy_K, correct_T, (2, 1)),
    ):
        wanted = [float(values_T[0] + values_T[1]) / counts[0], 0.0, float(values_T[2]) / counts[1]]
        assert found_K.tolist() == pytest.approx(wanted, abs=1e-5)


# attention


def test_a_token_looks_back_at_its_root_and_its_branch() -> None:
    tree, branch = torch.tensor([[0, 0, 0, 0, 0, 1, -1, -1]]), torch.tensor([[0, 0, 1, 1, 2, 0, 0, 0]])
    mask = allowed(tree, branch)
    zero = torch.tensor(0)
    seen = [["#" if mask(zero, zero, torch.tensor(q), torch.tensor(k)) else "." for k in range(8)] for q in range(8)]
    assert ["".join(row) for row in seen] == [
        "#.......",
        "##......",
        "###.....",
        "####....",
        "##..#...",
        ".....#..",
        "......#.",
        "......##",
    ]


@pytest.mark.parametrize("length", [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK])
def test_rows_are_filled_up_to_whole_blocks(length: int) -> None:
    filled = to_blocks(torch.ones(2, length, dtype=torch.long), -1)
    assert BLOCK == 128
    assert filled.shape[1] == -(-length // 128) * 128
    assert (filled == 1).sum() == 2 * length
    assert (filled == -1).sum() == filled.numel() - 2 * length
    assert to_blocks(torch.ones(1, length)).sum() == length


def test_a_block_mask_has_a_row_a_tree_row() -> None:
    tree = torch.zeros(3, 2 * BLOCK, dtype=torch.long)
    mask = tree_block_mask(tree, torch.zeros_like(tree))
    assert mask.shape == (3, 1, 256, 256)
    assert mask.BLOCK_SIZE == (128, 128)
    assert mask.to_dense()[0, 0].tolist() == [[1, 0], [1, 1]]
    with pytest.raises(ValueError, match="multiple of 128 tokens, not 129"):
        tree_block_mask(torch.zeros(1, 129, dtype=torch.long), torch.zeros(1, 129, dtype=torch.long))


@pytest.mark.parametrize(
    ("config", "window"),
    [
        ({}, None),
        ({"layer_types": ["full_attention"], "sliding_window": 9}, None),
        ({"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 9, "use_sliding_window": False}, 9),
        ({"layer_types": None, "sliding_window": 9}, 9),
        ({"layer_types": [], "sliding_window": 9, "use_sliding_window": True}, 9),
        ({"sliding_window": 9, "use_sliding_window": False}, None),
        ({"sliding_window": None}, None),
    ],
)
def test_the_window_is_that_of_sliding_layers(config: dict[str, Any], window: int | None) -> None:
    assert attention._window(config) == window


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"layer_types": ["sliding_attention"], "sliding_window": None}, "no sliding_window"),
        ({"use_sliding_window": True}, "no sliding_window"),
        ({"layer_types": ["mamba", "full_attention", "conv"]}, "has conv, mamba layers"),
    ],
)
def test_layers_that_attend_in_another_way_are_refused(config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        attention._window(config)


def test_a_row_may_be_as_long_as_the_window() -> None:
    ids = torch.zeros(2, 64, dtype=torch.long)
    for window in (64, 65, None):
        AttentionPath(flex=False, window=window).check_batch(ids, ids)
    AttentionPath(flex=True, window=None).check_batch(ids, torch.zeros(3, 2, 64, dtype=torch.long))
    with pytest.raises(UserError, match="see 63 tokens, fewer than a packed row of 64"):
        AttentionPath(flex=False, window=63).check_batch(ids, ids)
    for wrong in (None, torch.zeros(2, 63), torch.zeros(1, 64), torch.zeros(3, 1, 64)):
        with pytest.raises(ValueError, match="a position for each token"):
            AttentionPath(flex=False, window=None).check_batch(ids, wrong)


def packed() -> tuple[Tensor, Tensor, Tensor, BlockMask, Tensor]:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, BLOCK, 4) for heads in (3, 1, 1))
    tree, branch = torch.zeros(1, BLOCK, dtype=torch.long), (torch.arange(BLOCK) // 40)[None]
    q, k = torch.arange(BLOCK)[:, None], torch.arange(BLOCK)[None]
    seen = (q >= k) & ((branch[0][None] == 0) | (branch[0][:, None] == branch[0][None]))
    return query, key, value, tree_block_mask(tree, branch), seen


@pytest.mark.parametrize("scale", [None, 0.25, 2.0])
def test_flex_attention_equals_a_softmax_written_out(scale: float | None) -> None:
    query, key, value, mask, seen = packed()
    output, weights = flex_forward(nn.Module(), query, key, value, mask, scaling=scale)
    logits = (query.double() @ key.double().transpose(2, 3)) * (0.5 if scale is None else scale)  # by default one over the root of 4
    expected_output = (logits.masked_fill(~seen, -torch.inf).softmax(-1) @ value.double()).transpose(1, 2)
    assert weights is None
    assert output.shape == (1, BLOCK, 3, 4)
    assert output.is_contiguous()
    torch.testing.assert_close(output.double(), expected_output, rtol=1e-4, atol=1e-5)


def test_without_a_mask_flex_attention_is_sdpa() -> None:
    query, key, value, *_ = packed()
    module = nn.Module()
    module.is_causal = False  # type: ignore[assignment]
    module.num_key_value_groups = 3  # type: ignore[assignment]
    output, _ = flex_forward(module, query, key, value, None, scaling=0.25)
    logits = (query.double() @ key.double().transpose(2, 3)) * 0.25
    torch.testing.assert_close(output.double(), (logits.softmax(-1) @ value.double()).transpose(1, 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"softcap": 30.0}, "does not support softcap:"),
        ({"s_aux": torch.zeros(1)}, "does not support s_aux:"),
        ({"softcap": 0.0, "position_bias": torch.zeros(1)}, "does not support softcap, position_bias:"),
        ({"dropout": 0.1}, "not 0.1"),
    ],
)
def test_changes_that_flex_attention_ignores_are_refused(change: dict[str, Any], sentence: str) -> None:
    query, key, value, mask, _ = packed()
    with pytest.raises(ValueError, match=sentence):
        flex_forward(nn.Module(), query, key, value, mask, **change)
    flex_forward(nn.Module(), query, key, value, mask, softcap=None, dropout=0.0)


@pytest.mark.parametrize(("heads", "key_heads", "seen"), [(4, 2, (2, True)), (4, 4, (4, False)), (14, 2, (2, True)), (6, 6, (6, False))])
def test_keys_are_shared_whatever_the_number_of_heads(
    heads: int, key_heads: int, seen: tuple[int, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, mask, _ = packed()
    calls: list[tuple[int, bool]] = []

    def attend(query: Tensor, key: Tensor, value: Tensor, *, block_mask: BlockMask, enable_gqa: bool, **named: Any) -> Tensor:
        assert key.shape == value.shape
        assert (block_mask is mask, named) == (True, {"scale": 0.25})
        calls.append((key.shape[1], enable_gqa))
        return query

    monkeypatch.setattr(attention, "dense_attention", attend)
    query, key, value = (torch.randn(1, count, BLOCK, 4) for count in (heads, key_heads, key_heads))
    flex_forward(nn.Module(), query, key, value, mask, scaling=0.25)
    assert calls == [seen]


def test_without_a_mask_dropout_reaches_sdpa() -> None:
    query, key, value, *_ = packed()
    module = nn.Module()
    module.is_causal = False  # type: ignore[assignment]
    module.num_key_value_groups = 3  # type: ignore[assignment]
    dropped, _ = flex_forward(module, query, key, value, None, dropout=0.5)
    whole, _ = flex_forward(module, query, key, value, None)
    assert not torch.allclose(dropped, whole)


@pytest.mark.parametrize(("implementation", "registered"), [("sdpa", []), ("flex_attention", ["flex"])])
def test_only_flex_attention_is_registered(implementation: str, registered: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(attention, "_register_flex", lambda: calls.append("flex"))
    language = SimpleNamespace(_attn_implementation=implementation, to_dict=dict)
    model: Any = SimpleNamespace(config=SimpleNamespace(text_config=language))
    assert attention.examine(model) == AttentionPath(flex=implementation == "flex_attention", window=None)
    assert calls == registered


def test_sums_of_a_branch_stay_on_the_device_of_the_values() -> None:
    batch: Any = SimpleNamespace(branches=4, branch_T=torch.tensor([2, 0, 2, 3], device="meta"))
    sums = branch_sums(torch.ones(4, device="meta"), batch)
    assert (sums.device.type, sums.shape) == ("meta", (4,))
