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
from pathlib import Path

import torch

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
from benchmarks._tree_steps import CASES, SMALL_CASES, Case, Steps, relative_error
from components.families.adapters import family_of

LOSS_TOLERANCE = 2e-5  # relative, between any two sides: log-prob sums of some 900 nats are rounded by 6e-5 in fp32
ROUNDS = 5
# A ratio may exceed that of the operations by this much: TRL's work around the model is no operation of the model.
CEILING_ROOM = 1.15


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
        "user_ratios": {name: ratio.user for name, ratio in {**speedups, **parts}.items()},
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
