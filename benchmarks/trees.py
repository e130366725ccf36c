"""One optimiser step over all pairs of one image query: preference trees against pair by pair and against TRL's DPOTrainer.

Each step is policy forward, reference forward (but for the side that has a reference store), backward and AdamW, on equal weights: the
learning rate is 0, so that the update does all its work and changes nothing. The query, weights, dtype, threads and optimiser are the same
on all sides. Preprocessing is timed on no side. Before anything is timed, losses must agree, and gradients are compared.

    python -m benchmarks.trees --json

Bounds here: speedup_vs_pairwise and speedup_vs_trl 7.5, speedup_vs_trl_stored 10, speedup_vs_trl_k5 11, speedup_vs_trl_stored_k5 15,
max_rel_grad_error 5e-5. With --profile the operations that took most time are printed instead, for ours and for TRL's step.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks._harness import Report, interleave, keep_memory, machine, parser, seconds_of, show, use_threads
from benchmarks._models import TRIAL, Shape, Task, build_model, build_processor, build_task, moved_copy
from components.alignment.losses import PairBatch, pair_loss
from components.families.adapters import family_of
from components.features.embedding import embed
from components.trees.logprobs import TreeModel, branch_tokens, token_log_probs
from components.trees.trees import Tree, TreeBatch, build_batch

BETA = 0.1
LOSS_TOLERANCE = 2e-5  # relative, between any two sides: log-prob sums of some 900 nats are rounded by 6e-5 in fp32
ROUNDS = 5


@dataclass(frozen=True)
class Case:
    """Lengths of a query and the model that reads it."""

    responses: int
    root_tokens: int
    response_tokens: int
    shape: Shape


# Half of Qwen2-0.5B's width and a twelfth of its depth, with a vocabulary whose head weighs as much beside the layers as there.
# Narrow layers make attention a larger part of a step than it is in real models, where trees save less than in everything else.
WIDTHS: dict[str, Any] = {"hidden": 448, "intermediate": 2432, "layers": 2, "heads": 7, "key_value_heads": 1, "vocabulary": 6144}
TOWER: dict[str, Any] = {"tower_hidden": 448, "tower_intermediate": 1792, "tower_layers": 1, "tower_heads": 7}
CASES = {
    "k4": Case(4, 840, 60, Shape(**WIDTHS, **TOWER, side=20)),
    "k5": Case(5, 1500, 100, Shape(**WIDTHS, **TOWER, side=26)),
}
SMALL_CASES = {
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
        self.optimiser = torch.optim.AdamW([p for p in self.policy.parameters() if p.requires_grad], lr=0.0, weight_decay=0.0, fused=True)
        self.stored_K = self.tree_log_probs(self.reference)

    def tree_log_probs(self, model: Any) -> Tensor:
        """Log-prob sums of all responses from one pass, without gradients."""
        with torch.no_grad():
            return summed(model, build_batch([self.tree], self.tree.tokens, "cpu", self.pad_id))

    def by_tree(self, reference_K: Tensor | None = None) -> float:
        """The query as one tree. Without `reference_K` the reference model runs too."""
        batch = build_batch([self.tree], self.tree.tokens, "cpu", self.pad_id)
        if reference_K is None:
            with torch.no_grad():
                reference_K = summed(self.reference, batch)
        loss = pair_loss(summed(self.policy, batch), reference_K, branch_tokens(batch), _pairs(self.task.pairs), sft_weight=0.0).loss
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def by_stored_tree(self) -> float:
        """The query as one tree, with reference log-probs from a store."""
        return self.by_tree(self.stored_K)

    def by_pair(self) -> float:
        """Each pair's two sequences in a batch of their own, with the causal attention that whole sequences have."""
        total = 0.0
        share = 1 / len(self.task.pairs)
        for pair in self.task.pairs:
            with torch.no_grad():
                reference_2 = self.sequence_log_probs(self.reference, pair)
            policy_2 = self.sequence_log_probs(self.policy, pair)
            tokens_2 = torch.tensor([len(self.tree.branches[number].input_ids) for number in pair])
            loss = pair_loss(policy_2, reference_2, tokens_2, _pairs([(0, 1)], share), sft_weight=0.0).loss
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    def by_trl_together(self) -> float:
        """DPOTrainer with all pairs in one batch."""
        return self.trl.losses_and_gradients(self.trl.together)

    def by_trl_apart(self) -> float:
        """DPOTrainer with a pair a batch, accumulated."""
        return self.trl.losses_and_gradients(self.trl.apart)

    def sequence_log_probs(self, model: Any, numbers: Sequence[int]) -> Tensor:
        """Log-prob sums of some responses, each read as a sequence of its own behind its own copy of root and image."""
        root = list(self.tree.root.input_ids)
        branches = [self.tree.branches[number].input_ids for number in numbers]
        ids_RL = torch.tensor([[*root, *branch] for branch in branches])
        embeddings_RLH, _, _ = embed(model, ids_RL, [self.tree.root] * len(branches))
        hidden_RLH = model.model.language_model(inputs_embeds=embeddings_RLH, use_cache=False).last_hidden_state
        predicting_RTH = hidden_RLH[:, len(root) - 1 : -1]
        target_RT = ids_RL[:, len(root) :]
        log_probs_T = token_log_probs(model.lm_head, predicting_RTH.flatten(0, 1), target_RT.flatten())
        return log_probs_T.view(target_RT.shape).sum(1)

    def step(self, side: Callable[[], float]) -> Callable[[], None]:
        """`side` with the optimiser's step behind it."""

        def run() -> None:
            side()
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)

        return run

    def gradients(self, side: Callable[[], float]) -> tuple[float, dict[str, Tensor]]:
        """The loss of `side` and the gradient of every trained parameter, which are cleared behind it."""
        loss = side()
        found = {name: p.grad.clone() for name, p in self.policy.named_parameters() if p.grad is not None}
        self.optimiser.zero_grad(set_to_none=True)
        return loss, found

    def _check_tokens(self) -> None:
        """The processor's expanded root and every sequence must be the same on both sides."""
        root = list(self.tree.root.input_ids)
        order = [*(winner for winner, _ in self.task.pairs), *(loser for _, loser in self.task.pairs)]
        expected = [[*root, *self.tree.branches[number].input_ids] for number in order]
        assert self.trl.row_ids == expected, "TRL's collator made other tokens than the tree has"


def summed(model: Any, batch: TreeBatch) -> Tensor:
    """Log-prob sums [K] of a batch's branches."""
    log_prob_K = TreeModel(model)(batch)
    assert isinstance(log_prob_K, Tensor)
    return log_prob_K


def _pairs(pairs: Sequence[tuple[int, int]], weight: float | None = None) -> PairBatch:
    """Pairs of equal weight and of the one beta that TRL knows."""
    winners, losers = (torch.tensor(column) for column in zip(*pairs, strict=True))
    even = torch.full((len(pairs),), 1 / len(pairs) if weight is None else weight)
    return PairBatch(winners, losers, torch.full((len(pairs),), BETA), even)


def relative_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference of any gradient's entry, over the largest entry there is."""
    assert found.keys() == expected.keys()
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    return max(float((found[name] - gradient).abs().max()) for name, gradient in expected.items()) / scale


def tower_share(steps: Steps) -> dict[str, float]:
    """The tower's part of a step's floating-point operations, counted by torch, with trees and pair by pair.

    A step reads the image twice with a tree (policy and reference), and four times a pair.
    """
    from torch.utils.flop_counter import FlopCounterMode

    def count(work: Callable[[], object]) -> int:
        with FlopCounterMode(display=False) as counter:
            work()
        steps.optimiser.zero_grad(set_to_none=True)
        return int(counter.get_total_flops())

    family = family_of(steps.policy.config)
    with torch.no_grad():
        image = count(lambda: family.tower(steps.policy, steps.tree.root.media))
    return {"tree": 2 * image / count(steps.by_tree), "pairwise": 4 * len(steps.task.pairs) * image / count(steps.by_pair)}


def measure(case: Case, rounds: int, *, pairwise: bool) -> Report:
    """Check that all sides compute the same, then time their steps."""
    with tempfile.TemporaryDirectory() as folder:
        steps = Steps(case, Path(folder))
    ours: dict[str, Callable[[], float]] = {"tree": steps.by_tree, "tree_stored": steps.by_stored_tree}
    theirs = {"all pairs in one batch": steps.by_trl_together, "pair by pair": steps.by_trl_apart}
    if pairwise:
        ours["pairwise"] = steps.by_pair

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
    return {
        "responses": case.responses,
        "root_tokens": case.root_tokens,
        "response_tokens": case.response_tokens,
        "pairs": len(steps.task.pairs),
        "tree_tokens": steps.tree.tokens,
        "pair_tokens": 2 * len(steps.task.pairs) * (case.root_tokens + case.response_tokens),
        **seconds_of(timings),
        "losses": losses,
        "rel_grad_error": {name: relative_error(gradients["tree"], found) for name, found in gradients.items() if name != "tree"},
        "trl_batch": chosen,
        "trl_tried_seconds": {way: first[way].seconds for way in theirs},
        "tower_share_of_operations": tower_share(steps),
        "parameters": sum(p.numel() for p in steps.policy.parameters()),
        "trained_parameters": sum(p.numel() for p in steps.policy.parameters() if p.requires_grad),
    }


def run(*, small: bool, threads: int, rounds: int) -> Report:
    """All ratios, and what they were made of."""
    cases = SMALL_CASES if small else CASES
    k4 = measure(cases["k4"], rounds, pairwise=True)
    k5 = measure(cases["k5"], rounds, pairwise=False)
    first, second = k4["seconds"], k5["seconds"]
    return {
        "benchmark": "trees",
        "speedup_vs_pairwise": first["pairwise"] / first["tree"],
        "speedup_vs_trl": first["trl"] / first["tree"],
        "speedup_vs_trl_stored": first["trl"] / first["tree_stored"],
        "speedup_vs_trl_k5": second["trl"] / second["tree"],
        "speedup_vs_trl_stored_k5": second["trl"] / second["tree_stored"],
        "max_rel_grad_error": k4["rel_grad_error"]["pairwise"],
        "user_speedups": {  # of user CPU time, which other processes' load changes less
            "pairwise": k4["user_seconds"]["pairwise"] / k4["user_seconds"]["tree"],
            "trl": k4["user_seconds"]["trl"] / k4["user_seconds"]["tree"],
            "trl_stored": k4["user_seconds"]["trl"] / k4["user_seconds"]["tree_stored"],
            "trl_k5": k5["user_seconds"]["trl"] / k5["user_seconds"]["tree"],
            "trl_stored_k5": k5["user_seconds"]["trl"] / k5["user_seconds"]["tree_stored"],
        },
        "attention": {"tree": "sdpa, additive mask", "pairwise": "sdpa, causal", "trl": "sdpa, causal"},
        "dtype": "float32",
        "optimiser": "AdamW, fused, learning rate 0",
        "rounds": rounds,
        "k4": k4,
        "k5": k5,
        "machine": machine(threads),
    }


def profile(*, small: bool) -> None:
    """Print the operations in which a tree's step and TRL's spend their time, at K=4."""
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
    options.add_argument("--profile", action="store_true", help="print where the time goes instead")
    chosen = options.parse_args(arguments)
    use_threads(chosen.threads)
    if chosen.profile:
        profile(small=chosen.small)
        return
    show(lambda: run(small=chosen.small, threads=chosen.threads, rounds=chosen.rounds or ROUNDS), chosen.json)


if __name__ == "__main__":
    keep_memory("benchmarks.trees", sys.argv[1:])
    main(sys.argv[1:])
