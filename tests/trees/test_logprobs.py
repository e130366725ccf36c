"""Chunked log-probs against log_softmax of full logits, by value, gradient, memory and dtype."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.families.loading import load_model
from components.families.processing import Preprocessor
from components.trees.logprobs import TreeModel, chunk_tokens, token_log_probs, token_scores, tree_hidden
from components.trees.scoring import policy_tree
from components.trees.trees import TreeBatch, build_batch
from tests.tiny import preprocessor, queries

TOKENS, HIDDEN, VOCABULARY = 13, 8, 31


def head_of(*, bias: bool = False, dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(HIDDEN, VOCABULARY, bias=bias, dtype=dtype)


def states(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    torch.manual_seed(4)
    return 3 * torch.randn(TOKENS, HIDDEN, dtype=dtype), torch.randint(VOCABULARY, (TOKENS,))


def partitioned(head: nn.Linear) -> nn.Linear:
    """As ZeRO-3 marks it: the weight may be used only inside a call of the module."""
    for parameter in head.parameters():
        parameter.ds_id = 0  # type: ignore[attr-defined]
    return head


def full_log_probs(head: nn.Module, hidden_TH: Tensor, target_T: Tensor) -> Tensor:
    return head(hidden_TH).log_softmax(-1).gather(1, target_T[:, None])[:, 0]


def gradients(function: Callable[..., Tensor], head: nn.Linear) -> list[Tensor]:
    hidden_TH, target_T = states(head.weight.dtype)
    hidden_TH.requires_grad_()
    weights_T = torch.linspace(-1, 1, TOKENS, dtype=head.weight.dtype)
    return list(torch.autograd.grad((function(head, hidden_TH, target_T) * weights_T).sum(), [hidden_TH, *head.parameters()]))


def in_chunks(head: nn.Module, hidden_TH: Tensor, target_T: Tensor) -> Tensor:
    return token_log_probs(head, hidden_TH, target_T, chunk=4)


@pytest.mark.parametrize("prepare", [nn.Module.train, partitioned], ids=["own backward", "partitioned"])
@pytest.mark.parametrize("bias", [False, True])
def test_values_and_gradients_equal_full_logits(prepare: Callable[[nn.Linear], nn.Linear], bias: bool) -> None:
    head, (hidden_TH, target_T) = prepare(head_of(bias=bias)), states()
    torch.testing.assert_close(in_chunks(head, hidden_TH, target_T), full_log_probs(head, hidden_TH, target_T))
    for chunked, expected in zip(gradients(in_chunks, head), gradients(full_log_probs, head), strict=True):
        torch.testing.assert_close(chunked, expected, rtol=1e-5, atol=1e-6)


def test_gradients_by_finite_differences() -> None:
    head, (hidden_TH, target_T) = head_of(bias=True, dtype=torch.float64), states(torch.float64)

    def function(hidden_TH: Tensor, weight_VH: Tensor, bias_V: Tensor) -> Tensor:
        called = nn.Linear(HIDDEN, VOCABULARY, dtype=torch.float64)
        del called.weight, called.bias
        called.weight, called.bias = weight_VH, bias_V
        return token_log_probs(called, hidden_TH, target_T, chunk=5)

    assert torch.autograd.gradcheck(function, (hidden_TH.requires_grad_(), head.weight, head.bias))


def test_only_inputs_requiring_gradients_get_one() -> None:
    head, (hidden_TH, target_T) = head_of().requires_grad_(False), states()
    total = in_chunks(head, hidden_TH.requires_grad_(), target_T).sum()
    total.backward()
    assert head.weight.grad is None
    assert hidden_TH.grad is not None
    with torch.no_grad():
        assert not in_chunks(head, hidden_TH, target_T).requires_grad


@pytest.mark.parametrize("prepare", [nn.Module.train, partitioned], ids=["own backward", "partitioned"])
def test_entropy_and_accuracy_come_with_same_log_probs(prepare: Callable[[nn.Linear], nn.Linear]) -> None:
    head, (hidden_TH, target_T) = prepare(head_of()), states()
    target_T[::2] = head(hidden_TH).argmax(-1)[::2]  # right ones among them
    scores = token_scores(head, hidden_TH, target_T, chunk=4)
    expected = torch.distributions.Categorical(logits=head(hidden_TH))
    torch.testing.assert_close(scores.entropy_T, expected.entropy())
    assert scores.correct_T.tolist() == (head(hidden_TH).argmax(-1) == target_T).float().tolist()
    assert torch.equal(scores.log_prob_T, in_chunks(head, hidden_TH, target_T))
    assert scores.log_prob_T.requires_grad
    assert not scores.entropy_T.requires_grad
    assert not scores.correct_T.requires_grad


def test_no_targets_still_give_head_gradient() -> None:
    head, (hidden_TH, target_T) = head_of(bias=True), states()
    token_log_probs(head, hidden_TH[:0], target_T[:0]).sum().backward()
    assert head.weight.grad is not None
    assert head.bias.grad is not None
    assert not head.weight.grad.any()


def test_bf16_gradient_is_rounded_once_for_any_tiles() -> None:
    head, (hidden_TH, target_T) = head_of(dtype=torch.bfloat16), states(torch.bfloat16)

    def gradient(chunk: int) -> Tensor:
        return torch.autograd.grad(token_log_probs(head, hidden_TH, target_T, chunk).sum(), head.weight)[0]

    assert torch.equal(gradient(1), gradient(TOKENS))


@pytest.mark.parametrize("prepare", [nn.Module.train, partitioned], ids=["own backward", "partitioned"])
def test_bf16_logits_are_summed_in_fp32(prepare: Callable[[nn.Linear], nn.Linear]) -> None:
    head, (hidden_TH, target_T) = prepare(head_of(dtype=torch.bfloat16)), states(torch.bfloat16)
    log_probs = in_chunks(head, hidden_TH, target_T)
    assert log_probs.dtype == torch.float32
    expected = head(hidden_TH).float().log_softmax(-1).gather(1, target_T[:, None])[:, 0]
    torch.testing.assert_close(log_probs, expected, rtol=0, atol=1e-5)
    in_bf16 = full_log_probs(head, hidden_TH, target_T)
    assert float((log_probs - in_bf16).detach().abs().max()) > 1e-3, "bf16 sums have to differ, or the test proves nothing"


def test_autocast_reads_head_in_its_dtype() -> None:
    head, (hidden_TH, target_T) = head_of(), states()
    with torch.autocast("cpu", torch.bfloat16):
        log_probs = in_chunks(head, hidden_TH, target_T)
        expected = head(hidden_TH).float().log_softmax(-1).gather(1, target_T[:, None])[:, 0]
    torch.testing.assert_close(log_probs, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("vocabulary", "tokens"), [(261, 1024), (32_768, 1024), (150_000, 128), (10_000_000, 64)])
def test_chunks_shrink_with_vocabulary(vocabulary: int, tokens: int) -> None:
    assert chunk_tokens(vocabulary) == tokens


@pytest.mark.parametrize("prepare", [nn.Module.train, partitioned], ids=["own backward", "partitioned"])
def test_full_logits_are_never_stored(prepare: Callable[[nn.Linear], nn.Linear]) -> None:
    head, target_T = prepare(nn.Linear(4, 5000)), torch.zeros(1024, dtype=torch.long)
    sizes: list[int] = []

    class Record(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            sizes.extend(item.numel() for item in (result if isinstance(result, tuple) else (result,)) if isinstance(item, Tensor))
            return result

    hidden_TH = torch.randn(1024, 4, requires_grad=True)
    with Record():
        token_log_probs(head, hidden_TH, target_T, chunk=64).sum().backward()
    assert 0 < max(sizes) <= 64 * 5000


def test_adapters_on_head_are_refused() -> None:
    from peft import LoraConfig, inject_adapter_in_model

    model = nn.ModuleDict({"lm_head": head_of()})
    wrapped = inject_adapter_in_model(LoraConfig(target_modules=["lm_head"]), model)["lm_head"]  # type: ignore[arg-type, index]
    with pytest.raises(ValueError, match="LoRA"):
        token_log_probs(wrapped, *states())


@pytest.fixture(scope="module")
def batch(tiny_base: Path, tiny_media: Path) -> TreeBatch:
    prepared: Preprocessor = preprocessor(tiny_base, tiny_media)
    return build_batch([policy_tree(prepared, query) for query in queries()[:3]], 200, "cpu", 0)


def test_branch_statistics_leave_log_prob_sums_unchanged(tiny_base: Path, batch: TreeBatch) -> None:
    model = load_model(tiny_base)
    with torch.no_grad():
        scores, sums = TreeModel(model)(batch, statistics=True), TreeModel(model)(batch)
        logits_TV = model.lm_head(tree_hidden(model, batch)[batch.predictor_T])
    assert torch.equal(scores.log_prob_K, sums)
    entropy_T = torch.distributions.Categorical(logits=logits_TV).entropy()
    correct_T = logits_TV.argmax(-1) == batch.target_T
    for branch in range(batch.branches):
        own_T = batch.branch_T == branch
        torch.testing.assert_close(scores.entropy_K[branch], entropy_T[own_T].mean())
        torch.testing.assert_close(scores.accuracy_K[branch], correct_T[own_T].float().mean())


def test_sums_of_bf16_model_are_of_its_own_logits_in_fp32(tiny_base: Path, batch: TreeBatch) -> None:
    model = load_model(tiny_base, dtype=torch.bfloat16)
    with torch.no_grad():
        sums_K = TreeModel(model)(batch)
        log_p_TV = model.lm_head(tree_hidden(model, batch)[batch.predictor_T]).float().log_softmax(-1)
    picked_T = log_p_TV.gather(1, batch.target_T[:, None])[:, 0]
    assert sums_K.dtype == torch.float32
    expected = torch.stack([picked_T[batch.branch_T == branch].sum() for branch in range(batch.branches)])
    torch.testing.assert_close(sums_K, expected, rtol=1e-6, atol=1e-4)


def test_tied_head_and_embedding_get_one_gradient(tiny_base: Path, batch: TreeBatch) -> None:
    model = load_model(tiny_base)
    tied = model.lm_head.weight
    assert tied is model.get_input_embeddings().weight

    def gradient(log_prob_T: Tensor) -> Tensor:
        return torch.autograd.grad(log_prob_T.sum(), tied)[0]

    actual = gradient(TreeModel(model)(batch))
    expected = gradient(full_log_probs(model.lm_head, tree_hidden(model, batch)[batch.predictor_T], batch.target_T))
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
