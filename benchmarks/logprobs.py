"""Log-probs of response tokens through the LM head, forward and backward: in chunks against full logits.

Both sides get the same hidden states, head and targets, in fp32, and train the head. Most trainers compute full logits: log-softmax over the
vocabulary for every token, of which they take the target's entry. A separate process for each side measures peak memory: the highest resident
memory above hidden states, head and targets. The head's gradient counts on both sides.

"zero3" is the chunked side as ZeRO-3 runs it: DeepSpeed's engine with the pipeline's settings holds the head, gathers it for each pass and
takes its gradient. It has one rank, so its times hold DeepSpeed's copies of weight and gradient, and no transfer between GPUs.

    python -m benchmarks.logprobs --json

Bounds here: peak_memory_ratio (full over chunked) at least 3, time_ratio (chunked over full) at most 1.4.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks._harness import (
    ROOT,
    Ratio,
    Report,
    interleave,
    machine,
    parser,
    peak_bytes,
    print_peak,
    ratios,
    seconds_of,
    show,
    use_threads,
)
from components.trees.logprobs import token_log_probs

ROUNDS = 3
LOSS_TOLERANCE = 1e-5  # relative


@dataclass(frozen=True)
class Size:
    """Widths of the head and the number of response tokens."""

    hidden: int
    vocabulary: int
    tokens: int


FULL_SIZE = Size(hidden=896, vocabulary=150_000, tokens=2_048)
SMALL_SIZE = Size(hidden=32, vocabulary=20_000, tokens=1_024)


class Inputs:
    """Hidden states [T, H], head [V, H], targets [T] and the log-probs' gradient [T], drawn from a seed."""

    def __init__(self, size: Size) -> None:
        torch.manual_seed(0)
        self.head = nn.Linear(size.hidden, size.vocabulary, bias=False)
        self.hidden_TH = torch.randn(size.tokens, size.hidden, requires_grad=True)
        self.target_T = torch.randint(size.vocabulary, (size.tokens,))
        self.weight_T = torch.randn(size.tokens) / size.tokens

    def run(self, log_probs: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Run forward and backward; return log-probs and loss. The gradients of head and hidden states stay in their tensors."""
        self.clear()
        log_prob_T = log_probs(self.head, self.hidden_TH, self.target_T)
        loss = (log_prob_T * self.weight_T).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return log_prob_T.detach(), loss.detach()

    def clear(self) -> None:
        """Drop the gradients."""
        self.head.weight.grad = self.hidden_TH.grad = None

    @property
    def gradients(self) -> tuple[Tensor, Tensor]:
        """The gradients of the head and of the hidden states."""
        assert self.head.weight.grad is not None
        assert self.hidden_TH.grad is not None
        return self.head.weight.grad, self.hidden_TH.grad


class Zero3:
    """The chunked side with the head in DeepSpeed's ZeRO-3 engine, as the pipeline sets it up; one rank, this process."""

    def __init__(self, inputs: Inputs, threads: int) -> None:
        from components.checkout import Checkout
        from components.config.settings import load_settings
        from components.engine.backends import DeepSpeed
        from components.engine.launcher import rank_environment
        from components.engine.ops import ensure_built

        checkout = Checkout(ROOT)
        os.environ.update(rank_environment(checkout, threads))
        os.environ.update({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())})
        ensure_built(dict(os.environ))
        training = load_settings(checkout.params).training.model_copy(update={"engine": "deepspeed", "zero_stage": 3, "precision": "fp32"})
        self.inputs = inputs
        self.backend = DeepSpeed(training, checkout)
        scorer = _Scorer(nn.Linear(inputs.head.in_features, inputs.head.out_features, bias=False))
        scorer.head.load_state_dict(inputs.head.state_dict())
        self.backend.prepare(scorer, [{"params": list(scorer.parameters()), "lr": 0.0, "weight_decay": 0.0}])
        torch.set_num_threads(threads)
        assert "ds_id" in vars(scorer.head.weight), "ZeRO-3 has not partitioned the head"

    def run(self) -> tuple[Tensor, Tensor]:
        """As `Inputs.run`; the head's gradient stays in the engine."""
        self.backend.optimizer.zero_grad()
        self.inputs.hidden_TH.grad = None
        log_prob_T = self.backend.wrapped(self.inputs.hidden_TH, self.inputs.target_T)
        loss = (log_prob_T * self.inputs.weight_T).sum()
        self.backend.backward(loss)
        return log_prob_T.detach(), loss.detach()

    @property
    def gradients(self) -> tuple[Tensor, Tensor]:
        """The gradients of the head and of the hidden states."""
        from deepspeed.utils import safe_get_full_grad

        assert self.inputs.hidden_TH.grad is not None
        return safe_get_full_grad(self.backend.wrapped.module.head.weight), self.inputs.hidden_TH.grad


class _Scorer(nn.Module):
    """A head that the engine wraps."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.head = head

    def forward(self, hidden_TH: Tensor, target_T: Tensor) -> Tensor:
        return token_log_probs(self.head, hidden_TH, target_T)


def _free_port() -> int:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port: int = chosen.getsockname()[1]
        return port


def full_logits(head: nn.Module, hidden_TH: Tensor, target_T: Tensor) -> Tensor:
    """fp32 log-prob of each target token [T], by log-softmax over all logits [T, V]."""
    logits_TV: Tensor = head(hidden_TH).float()
    return logits_TV.log_softmax(1).gather(1, target_T[:, None])[:, 0]


SIDES: dict[str, Callable[[nn.Module, Tensor, Tensor], Tensor]] = {"chunked": token_log_probs, "full": full_logits}


def run(*, small: bool, threads: int, rounds: int) -> Report:
    """Both ratios, and the numbers behind them."""
    peaks = {
        side: peak_bytes(["benchmarks.logprobs", "--peak", side, "--threads", str(threads), *["--small"] * small], threads)
        for side in (*SIDES, "zero3")
    }
    size = SMALL_SIZE if small else FULL_SIZE
    inputs = Inputs(size)
    zero3 = Zero3(inputs, threads)
    difference, losses = _compare(inputs, zero3)
    sides: dict[str, Callable[[], object]] = {name: lambda side=side: inputs.run(side) for name, side in SIDES.items()}  # type: ignore[misc]
    timings = interleave({**sides, "zero3": zero3.run}, rounds)
    times = {"time_ratio": Ratio(timings["chunked"], timings["full"]), "time_ratio_zero3": Ratio(timings["zero3"], timings["full"])}
    return {
        "benchmark": "logprobs",
        "peak_memory_ratio": peaks["full"] / peaks["chunked"],
        "peak_memory_ratio_zero3": peaks["full"] / peaks["zero3"],
        **ratios(times, small=small),
        "user_time_ratio": timings["chunked"].user_seconds / timings["full"].user_seconds,
        "user_time_ratio_zero3": timings["zero3"].user_seconds / timings["full"].user_seconds,
        **difference,
        "losses": losses,
        "peak_mb": {side: peak / 1e6 for side, peak in peaks.items()},
        "head_gradient_mb": 4 * size.hidden * size.vocabulary / 1e6,
        "full_logits_mb": 4 * size.tokens * size.vocabulary / 1e6,
        **seconds_of(timings),
        "hidden": size.hidden,
        "vocabulary": size.vocabulary,
        "tokens": size.tokens,
        "dtype": "float32",
        "attention": None,
        "rounds": rounds,
        "machine": machine(threads),
    }


def _compare(inputs: Inputs, zero3: Zero3 | None = None) -> tuple[dict[str, float], dict[str, float]]:
    """The largest differences to full logits of log-probs and gradients, and all losses. Ends the program if the losses differ."""
    results = {}
    for name, side in SIDES.items():
        log_prob_T, loss = inputs.run(side)
        results[name] = (log_prob_T, loss, *(gradient.clone() for gradient in inputs.gradients))
    if zero3 is not None:
        zero3.run()  # a second pass shows whether the engine adds gradients up
        log_prob_T, loss = zero3.run()
        results["zero3"] = (log_prob_T, loss, *(gradient.clone() for gradient in zero3.gradients))
    inputs.clear()
    full = results.pop("full")
    losses = {"full": float(full[1]), **{name: float(values[1]) for name, values in results.items()}}
    if any(abs(loss - losses["full"]) > LOSS_TOLERANCE * abs(losses["full"]) for loss in losses.values()):
        raise SystemExit(f"the sides compute different losses: {losses}")
    return {
        "max_log_prob_difference": max(float((values[0] - full[0]).abs().max()) for values in results.values()),
        "max_rel_head_grad_error": max(float((values[2] - full[2]).abs().max() / full[2].abs().max()) for values in results.values()),
        "max_rel_hidden_grad_error": max(float((values[3] - full[3]).abs().max() / full[3].abs().max()) for values in results.values()),
    }, losses


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line. The benchmark calls itself with `--peak SIDE` to measure one side's memory."""
    options = parser(__doc__ or "")
    options.add_argument("--peak", choices=[*SIDES, "zero3"], help="print only one side's peak memory in bytes")
    chosen = options.parse_args(arguments)
    use_threads(chosen.threads)
    if chosen.peak:
        inputs = Inputs(SMALL_SIZE if chosen.small else FULL_SIZE)
        print_peak(Zero3(inputs, chosen.threads).run if chosen.peak == "zero3" else lambda: inputs.run(SIDES[chosen.peak]))
        return
    show(lambda: run(small=chosen.small, threads=chosen.threads, rounds=chosen.rounds or ROUNDS), chosen.json)


if __name__ == "__main__":
    main(sys.argv[1:])
