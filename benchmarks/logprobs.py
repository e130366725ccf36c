"""Log-probs of response tokens through the LM head, forward and backward: in chunks against full logits.

Both sides get the same hidden states, head and targets, in fp32, and train the head. Most trainers compute full logits: log-softmax over the
vocabulary for every token, of which they take the target's entry. A separate process for each side measures peak memory: the highest resident
memory above hidden states, head and targets. The head's gradient counts on both sides.

    python -m benchmarks.logprobs --json

Bounds here: peak_memory_ratio (full over chunked) at least 3, time_ratio (chunked over full) at most 1.4.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks._harness import Report, interleave, machine, parser, peak_bytes, print_peak, seconds_of, show, use_threads
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


def full_logits(head: nn.Module, hidden_TH: Tensor, target_T: Tensor) -> Tensor:
    """fp32 log-prob of each target token [T], by log-softmax over all logits [T, V]."""
    logits_TV: Tensor = head(hidden_TH).float()
    return logits_TV.log_softmax(1).gather(1, target_T[:, None])[:, 0]


SIDES: dict[str, Callable[[nn.Module, Tensor, Tensor], Tensor]] = {"chunked": token_log_probs, "full": full_logits}


def run(*, small: bool, threads: int, rounds: int) -> Report:
    """Both ratios, and the numbers behind them."""
    peaks = {
        side: peak_bytes(["benchmarks.logprobs", "--peak", side, "--threads", str(threads), *["--small"] * small], threads)
        for side in SIDES
    }
    size = SMALL_SIZE if small else FULL_SIZE
    inputs = Inputs(size)
    difference, losses = _compare(inputs)
    timings = interleave({name: lambda side=side: inputs.run(side) for name, side in SIDES.items()}, rounds)  # type: ignore[misc]
    return {
        "benchmark": "logprobs",
        "peak_memory_ratio": peaks["full"] / peaks["chunked"],
        "time_ratio": timings["chunked"].seconds / timings["full"].seconds,
        "user_time_ratio": timings["chunked"].user_seconds / timings["full"].user_seconds,
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


def _compare(inputs: Inputs) -> tuple[dict[str, float], dict[str, float]]:
    """Differences of log-probs and gradients, and both losses. Ends the program if the losses differ."""
    results = {}
    for name, side in SIDES.items():
        log_prob_T, loss = inputs.run(side)
        results[name] = (log_prob_T, loss, *(gradient.clone() for gradient in inputs.gradients))
    inputs.clear()
    chunked, full = results["chunked"], results["full"]
    losses = {name: float(values[1]) for name, values in results.items()}
    if abs(losses["chunked"] - losses["full"]) > LOSS_TOLERANCE * abs(losses["full"]):
        raise SystemExit(f"the sides compute different losses: {losses}")
    return {
        "max_log_prob_difference": float((chunked[0] - full[0]).abs().max()),
        "max_rel_head_grad_error": float((chunked[2] - full[2]).abs().max() / full[2].abs().max()),
        "max_rel_hidden_grad_error": float((chunked[3] - full[3]).abs().max() / full[3].abs().max()),
    }, losses


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line. The benchmark calls itself with `--peak SIDE` to measure one side's memory."""
    options = parser(__doc__ or "")
    options.add_argument("--peak", choices=SIDES, help="print only one side's peak memory in bytes")
    chosen = options.parse_args(arguments)
    use_threads(chosen.threads)
    if chosen.peak:
        inputs = Inputs(SMALL_SIZE if chosen.small else FULL_SIZE)
        print_peak(lambda: inputs.run(SIDES[chosen.peak]))
        return
    show(lambda: run(small=chosen.small, threads=chosen.threads, rounds=chosen.rounds or ROUNDS), chosen.json)


if __name__ == "__main__":
    main(sys.argv[1:])
