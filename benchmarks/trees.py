"""One optimizer step over all pairs of one image query: preference trees against pair by pair and against TRL's DPOTrainer.

Each step is policy forward, reference forward (except with a reference store), backward and AdamW. The learning rate is 0: the update does
all its work but leaves the weights equal. All sides have the same query, weights, dtype, threads and optimizer, and compute TRL's statistics:
rewards, log-probs, mean logits, entropy and accuracy. No timing includes preprocessing. Before the timings, the losses must agree, and the
benchmark compares the gradients.

`decomposition` splits the ratio to TRL at K=4 into what each idea gives: "responses once" reads each response once, not once a pair, each in a
sequence of its own; "shared root" is the tree; "stored reference" and "cached vision tower" take those two out of the step.

    python -m benchmarks.trees --json

Bounds here: speedup_vs_pairwise and speedup_vs_trl 7.5, speedup_vs_trl_stored 10, speedup_vs_trl_k5 11, speedup_vs_trl_stored_k5 15,
speedup_vs_trl_k2 1.5, max_rel_grad_error 5e-5. With --profile it prints the slowest operations of our step and of TRL's instead.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks._harness import (
    Ratio,
    Report,
    interleave,
    keep_memory,
    machine,
    parser,
    peak_bytes,
    print_peak,
    ratios,
    seconds_of,
    show,
    use_threads,
)
from benchmarks._models import TRIAL, Shape, Task, build_model, build_processor, build_task, moved_copy
from components.alignment.losses import LossSettings, PairBatch, branch_metrics, pair_loss
from components.families.adapters import family_of
from components.features.embedding import embed
from components.trees.logprobs import branch_sums, token_log_probs, token_scores, tree_hidden
from components.trees.trees import Tree, TreeBatch, build_batch

BETA = 0.1
LOSS_TOLERANCE = 2e-5  # relative, between any two sides: log-prob sums of some 900 nats are rounded by 6e-5 in fp32
ROUNDS = 5
# A ratio may exceed that of the operations by this much: TRL's work around the model is no operation of the model.
CEILING_ROOM = 1.15


@dataclass(frozen=True)
class Case:
    """A query's lengths and its model."""

    responses: int
    root_tokens: int
    response_tokens: int
    shape: Shape


# Half of Qwen2-0.5B's width and a twelfth of its depth, with a vocabulary that keeps the proportion of head to layers. Narrow layers make
# attention, in which trees save least, a larger part of a step than in real models.
WIDTHS: dict[str, Any] = {"hidden": 448, "intermediate": 2432, "layers": 2, "heads": 7, "key_value_heads": 1, "vocabulary": 6144}
VISION: dict[str, Any] = {"vision_hidden": 448, "vision_intermediate": 1792, "vision_layers": 1, "vision_heads": 7}
CASES = {
    "k2": Case(2, 840, 60, Shape(**WIDTHS, **VISION, side=20)),
    "k4": Case(4, 840, 60, Shape(**WIDTHS, **VISION, side=20)),
    "k5": Case(5, 1500, 100, Shape(**WIDTHS, **VISION, side=26)),
}
SMALL_CASES = {
    "k2": Case(2, 30, 6, TRIAL),
    "k4": Case(4, 30, 6, TRIAL),
    "k5": Case(5, 40, 8, TRIAL),
}


class Steps:
    """The sides of one case: each computes a query's loss and leaves its gradients in the policy."""

    def __init__(self, case: Case, folder: Path) -> None:
        from benchmarks._trl import TrlSide

        processor = build_processor(case.shape.side)
        self.reference = build_model(case.shape, processor).eval().requires_grad_(False)
        trained = build_model(case.shape, processor)
        trained.load_state_dict(self.reference.state_dict())
        self.policy = moved_copy(trained)
        self.task: Task = build_task(
            case.shape,
            processor,
            self.policy.config,
            responses=case.responses,
            root_tokens=case.root_tokens,
            response_tokens=case.response_tokens,
        )
        self.tree: Tree = self.task.tree
        self.pad_id: int = processor.tokenizer.pad_token_id
        self.trl = TrlSide(self.policy, self.reference, self.task, BETA, folder)
        self._check_tokens()
        self.optimizer = torch.optim.AdamW([p for p in self.policy.parameters() if p.requires_grad], lr=0.0, weight_decay=0.0, fused=True)
        self.stored_K = self.tree_log_probs(self.reference)
        media = self.tree.root.media
        with torch.no_grad():
            outputs = family_of(self.policy.config).vision_tower(self.policy, media)
        cached = tuple(replace(medium, features=output) for medium, output in zip(media, outputs, strict=True))
        self.cached_tree = replace(self.tree, root=replace(self.tree.root, media=cached))
        self.statistics: dict[str, float] = {}  # of the last step of ours

    def tree_log_probs(self, model: Any) -> Tensor:
        """Log-prob sums of all responses from one pass, without gradients."""
        with torch.no_grad():
            return summed(model, build_batch([self.tree], self.tree.tokens, "cpu", self.pad_id))

    def by_tree(self, reference_K: Tensor | None = None, tree: Tree | None = None) -> float:
        """The loss with the query as one tree. Without `reference_K` the reference model runs too."""
        batch = build_batch([tree or self.tree], self.tree.tokens, "cpu", self.pad_id)
        if reference_K is None:
            with torch.no_grad():
                reference_K = summed(self.reference, batch)
        hidden_TH = tree_hidden(self.policy, batch)[batch.predictor_T]
        return self._backward(hidden_TH, batch.target_T, batch.branch_T, reference_K, _pairs(self.task.pairs))

    def by_stored_tree(self) -> float:
        """The loss with the query as one tree and reference log-probs from a store."""
        return self.by_tree(self.stored_K)

    def by_cached_tree(self) -> float:
        """As `by_stored_tree`, with the vision tower's output from a store."""
        return self.by_tree(self.stored_K, self.cached_tree)

    def by_response(self) -> float:
        """The loss with each response once, in a sequence of its own, under plain causal attention."""
        numbers = range(len(self.tree.branches))
        with torch.no_grad():
            reference_K = self.sequence_log_probs(self.reference, numbers)
        hidden_TH, target_T, branch_T = self._sequences(self.policy, numbers)
        return self._backward(hidden_TH, target_T, branch_T, reference_K, _pairs(self.task.pairs))

    def by_pair(self) -> float:
        """The loss with each pair's two sequences in a separate batch, under plain causal attention."""
        total = 0.0
        share = 1 / len(self.task.pairs)
        for pair in self.task.pairs:
            with torch.no_grad():
                reference_2 = self.sequence_log_probs(self.reference, pair)
            hidden_TH, target_T, branch_T = self._sequences(self.policy, pair)
            total += self._backward(hidden_TH, target_T, branch_T, reference_2, _pairs([(0, 1)], share))
        return total

    def _backward(self, hidden_TH: Tensor, target_T: Tensor, branch_T: Tensor, reference_K: Tensor, pairs: PairBatch) -> float:
        """The pairs' loss and its gradients, with the statistics that TRL computes of every step."""
        head = self.policy.lm_head
        tokens = token_scores(head, hidden_TH, target_T)
        tokens_K = torch.bincount(branch_T, minlength=len(reference_K))

        def sums(value_T: Tensor) -> Tensor:
            return torch.zeros(len(reference_K), dtype=value_T.dtype).index_add(0, branch_T, value_T)

        result = pair_loss(sums(tokens.log_prob_T), reference_K, tokens_K, pairs, LossSettings(sft_weight=0.0))
        with torch.no_grad():
            means = {"entropy": tokens.entropy_T, "token_accuracy": tokens.correct_T, "logits": hidden_TH @ head.weight.mean(0)}
            columns = [branch_metrics(name, sums(value_T) / tokens_K, pairs) for name, value_T in means.items()]
        self.statistics = {name: float(value) for metrics in (result.metrics, *columns) for name, value in metrics.items()}
        result.loss.backward()  # type: ignore[no-untyped-call]
        return float(result.loss.detach())

    def by_trl_together(self) -> float:
        """The loss of DPOTrainer with all pairs in one batch."""
        return self.trl.losses_and_gradients(self.trl.together)

    def by_trl_apart(self) -> float:
        """The loss of DPOTrainer with one pair a batch, accumulated."""
        return self.trl.losses_and_gradients(self.trl.apart)

    def sequence_log_probs(self, model: Any, numbers: Sequence[int]) -> Tensor:
        """Log-prob sums of some responses, each read as a separate sequence after its own copy of root and image."""
        hidden_TH, target_T, _ = self._sequences(model, numbers)
        return token_log_probs(model.lm_head, hidden_TH, target_T).view(len(numbers), -1).sum(1)

    def _sequences(self, model: Any, numbers: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """The hidden states before the responses' tokens [T, H], these tokens [T], and their responses' positions in `numbers` [T]."""
        root = list(self.tree.root.input_ids)
        ids_RL = torch.tensor([[*root, *self.tree.branches[number].input_ids] for number in numbers])
        embeddings_RLH, _, _ = embed(model, ids_RL, [self.tree.root] * len(numbers))
        hidden_RLH = model.model.language_model(inputs_embeds=embeddings_RLH, use_cache=False).last_hidden_state
        target_RT = ids_RL[:, len(root) :]
        branch_T = torch.arange(len(numbers)).repeat_interleave(target_RT.shape[1])
        return hidden_RLH[:, len(root) - 1 : -1].flatten(0, 1), target_RT.flatten(), branch_T

    def step(self, side: Callable[[], float]) -> Callable[[], None]:
        """`side`, followed by the optimizer's step."""

        def run() -> None:
            side()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

        return run

    def gradients(self, side: Callable[[], float]) -> tuple[float, dict[str, Tensor]]:
        """The loss of `side` and a copy of every trained parameter's gradient; clears the gradients."""
        loss = side()
        copies = {name: p.grad.clone() for name, p in self.policy.named_parameters() if p.grad is not None}
        self.optimizer.zero_grad(set_to_none=True)
        return loss, copies

    def _check_tokens(self) -> None:
        """Assert that both sides have the same expanded root and the same sequences."""
        root = list(self.tree.root.input_ids)
        order = [*(winner for winner, _ in self.task.pairs), *(loser for _, loser in self.task.pairs)]
        expected = [[*root, *self.tree.branches[number].input_ids] for number in order]
        assert self.trl.row_ids == expected, "TRL's collator makes other tokens than the tree"


def summed(model: Any, batch: TreeBatch) -> Tensor:
    """Log-prob sums [K] of a batch's branches."""
    hidden_TH = tree_hidden(model, batch)[batch.predictor_T]
    return branch_sums(token_log_probs(model.lm_head, hidden_TH, batch.target_T), batch)


def _pairs(pairs: Sequence[tuple[int, int]], weight: float | None = None) -> PairBatch:
    """Pairs of equal weight with one beta, since TRL has no beta a pair."""
    winners, losers = (torch.tensor(column) for column in zip(*pairs, strict=True))
    even = torch.full((len(pairs),), 1 / len(pairs) if weight is None else weight)
    return PairBatch(winners, losers, torch.full((len(pairs),), BETA), even)


def relative_error(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference between two entries of the gradients, divided by the largest expected entry."""
    assert actual.keys() == expected.keys()
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    return max(float((actual[name] - gradient).abs().max()) for name, gradient in expected.items()) / scale


def operations(steps: Steps, sides: dict[str, Callable[[], float]]) -> dict[str, int]:
    """Floating-point operations of each side, and of one pass of the vision tower over the image, counted by torch."""
    from torch.utils.flop_counter import FlopCounterMode

    def count(work: Callable[[], object]) -> int:
        with FlopCounterMode(display=False) as counter:
            work()
        steps.optimizer.zero_grad(set_to_none=True)
        return int(counter.get_total_flops())

    family = family_of(steps.policy.config)
    with torch.no_grad():
        image = count(lambda: family.vision_tower(steps.policy, steps.tree.root.media))
    return {"image": image, **{name: count(side) for name, side in sides.items()}}


def measure(case: Case, rounds: int, names: Sequence[str]) -> tuple[dict[str, Ratio], Report]:
    """Check that all sides compute the same loss, then time the steps of TRL and of our sides `names`; each one's ratio to TRL."""
    with tempfile.TemporaryDirectory() as folder:
        steps = Steps(case, Path(folder))
    every: dict[str, Callable[[], float]] = {
        "tree": steps.by_tree,
        "tree_stored": steps.by_stored_tree,
        "tree_cached": steps.by_cached_tree,
        "responses_once": steps.by_response,
        "pairwise": steps.by_pair,
    }
    ours = {name: every[name] for name in names}
    theirs = {"all pairs in one batch": steps.by_trl_together, "pair by pair": steps.by_trl_apart}

    losses, gradients = {}, {}
    for name, side in {**ours, **{f"trl, {way}": side for way, side in theirs.items()}}.items():
        losses[name], gradients[name] = steps.gradients(side)
    if max(losses.values()) - min(losses.values()) > LOSS_TOLERANCE * abs(losses["tree"]):
        raise SystemExit(f"the sides compute different losses: {losses}")

    # The first round times both of TRL's ways, the others the faster one.
    first = interleave({name: steps.step(side) for name, side in {**ours, **theirs}.items()}, 1)
    chosen = min(theirs, key=lambda way: first[way].seconds)
    others = interleave({name: steps.step(side) for name, side in {**ours, chosen: theirs[chosen]}.items()}, rounds - 1)
    timings = {("trl" if name == chosen else name): first[name].joined(timing) for name, timing in others.items()}
    counted = operations(steps, {**ours, "trl": theirs[chosen]})
    return {
        f"{slow} over {fast}": Ratio(timings[slow], timings[fast], CEILING_ROOM * counted[slow] / counted[fast])
        for slow in timings
        for fast in timings
        if slow != fast
    }, {
        "responses": case.responses,
        "root_tokens": case.root_tokens,
        "response_tokens": case.response_tokens,
        "pairs": len(steps.task.pairs),
        "tree_tokens": steps.tree.tokens,
        "pair_tokens": 2 * len(steps.task.pairs) * (case.root_tokens + case.response_tokens),
        **seconds_of(timings),
        "operations": counted,
        "losses": losses,
        "rel_grad_error": {name: relative_error(gradients["tree"], actual) for name, actual in gradients.items() if name != "tree"},
        "trl_batch": chosen,
        "trl_tried_seconds": {way: first[way].seconds for way in theirs},
        "tower_share_of_operations": {"tree": 2 * counted["image"] / counted["tree"]},
        "parameters": sum(p.numel() for p in steps.policy.parameters()),
        "trained_parameters": sum(p.numel() for p in steps.policy.parameters() if p.requires_grad),
    }


# What each idea takes out of a step: the side with it after the side without it.
DECOMPOSITION = {
    "responses once": "trl over responses_once",
    "shared root": "responses_once over tree",
    "stored reference": "tree over tree_stored",
    "cached vision tower": "tree_stored over tree_cached",
}


def run(*, small: bool, threads: int, rounds: int) -> Report:
    """All ratios, and the numbers behind them."""
    cases = SMALL_CASES if small else CASES
    k2_ratios, k2 = measure(cases["k2"], rounds, ["tree", "tree_stored"])
    k4_ratios, k4 = measure(cases["k4"], rounds, ["tree", "tree_stored", "tree_cached", "responses_once", "pairwise"])
    k5_ratios, k5 = measure(cases["k5"], rounds, ["tree", "tree_stored"])
    # At minute sizes a step takes less memory than its imports, so that there is nothing to measure.
    peaks = {
        side: peak_bytes(["benchmarks.trees", "--peak", side, "--threads", str(threads)], threads)
        for side in (() if small else ("tree", "tree-stored", "trl-apart", "trl-together"))
    }
    speedups = {
        "speedup_vs_pairwise": k4_ratios["pairwise over tree"],
        "speedup_vs_trl": k4_ratios["trl over tree"],
        "speedup_vs_trl_stored": k4_ratios["trl over tree_stored"],
        "speedup_vs_trl_k2": k2_ratios["trl over tree"],
        "speedup_vs_trl_stored_k2": k2_ratios["trl over tree_stored"],
        "speedup_vs_trl_k5": k5_ratios["trl over tree"],
        "speedup_vs_trl_stored_k5": k5_ratios["trl over tree_stored"],
    }
    parts = {name: k4_ratios[key] for name, key in DECOMPOSITION.items()}
    return {
        "benchmark": "trees",
        **ratios(speedups, small=small),
        "memory_ratio_vs_trl": None if small else min(peaks["trl-apart"], peaks["trl-together"]) / peaks["tree"],
        "max_rel_grad_error": k4["rel_grad_error"]["pairwise"],
        "decomposition": ratios(parts, small=small),
        # Of user CPU time, which depends less on other processes' load; and of the operations of the models.
        "user_ratios": {name: ratio.slow.user_seconds / ratio.fast.user_seconds for name, ratio in {**speedups, **parts}.items()},
        "operation_ratios": {name: (ratio.ceiling or 0) / CEILING_ROOM for name, ratio in {**speedups, **parts}.items()},
        "peak_mb": {side: peak / 1e6 for side, peak in peaks.items()},
        "attention": {"tree": "sdpa, additive mask", "responses_once": "sdpa, causal", "pairwise": "sdpa, causal", "trl": "sdpa, causal"},
        "dtype": "float32",
        "optimiser": "AdamW, fused, learning rate 0",
        "rounds": rounds,
        "k2": k2,
        "k4": k4,
        "k5": k5,
        "machine": machine(threads),
    }


def print_side_peak(side: str, *, small: bool) -> None:
    """Print the peak memory in bytes of a first step of one side at K=4, above models, inputs and trainer."""
    with tempfile.TemporaryDirectory() as folder:
        steps = Steps((SMALL_CASES if small else CASES)["k4"], Path(folder))
    sides = {
        "tree": steps.by_tree,
        "tree-stored": steps.by_stored_tree,
        "trl-apart": steps.by_trl_apart,
        "trl-together": steps.by_trl_together,
    }
    print_peak(steps.step(sides[side]))


def profile(*, small: bool) -> None:
    """Print the slowest operations of a tree's step, a pairwise step and TRL's step, at K=4."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as recorded

    case = (SMALL_CASES if small else CASES)["k4"]
    with tempfile.TemporaryDirectory() as folder:
        steps = Steps(case, Path(folder))
    for name, side in {"tree": steps.by_tree, "pairwise": steps.by_pair, "trl": steps.by_trl_apart}.items():
        step = steps.step(side)
        step()
        with recorded(activities=[ProfilerActivity.CPU]) as record:
            step()
        print(f"{name}\n{record.key_averages().table(sort_by='self_cpu_time_total', row_limit=14, max_name_column_width=60)}")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    options = parser(__doc__ or "")
    options.add_argument("--profile", action="store_true", help="print the slowest operations instead")
    options.add_argument("--peak", choices=["tree", "tree-stored", "trl-apart", "trl-together"], help="print only one side's peak memory")
    chosen = options.parse_args(arguments)
    use_threads(chosen.threads)
    if chosen.peak:
        print_side_peak(chosen.peak, small=chosen.small)
        return
    if chosen.profile:
        profile(small=chosen.small)
        return
    show(lambda: run(small=chosen.small, threads=chosen.threads, rounds=chosen.rounds or ROUNDS), chosen.json)


if __name__ == "__main__":
    if "--peak" not in sys.argv:
        keep_memory("benchmarks.trees", sys.argv[1:])
    main(sys.argv[1:])
