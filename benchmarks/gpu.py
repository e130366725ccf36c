"""Preference trees on a GPU: step time, MFU, peak memory and the longest root that fits, in bf16, with flex attention and with sdpa.

Shapes are those of LLaVA-OneVision 0.5B and 7B (Qwen2 with SigLIP-so400m, frozen vision tower), with random weights built on the device. A
step is forward, backward and AdamW (states in bf16, learning rate 0) over a query's K=4 responses, with reference log-probs from a store.
TRL's DPOTrainer, which can't store them for images, runs the same pairs with a reference model, if trl is installed and its step fits. A side
that runs out of memory reports null.

    python -m benchmarks.gpu --json

Without a GPU it prints {"skipped": "no GPU"}. With --dry it runs all code on the CPU with minute shapes, which does not measure speed. Goal: an
MFU of 45 %.
"""

from __future__ import annotations

import gc
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks._harness import Ratio, Report, interleave, machine, parser, ratios, show, use_threads
from benchmarks._models import TRIAL, Shape, Task, build_model, build_processor, build_task, moved_copy
from benchmarks._operations import step_operations
from components.alignment.losses import LossSettings, PairBatch, pair_loss
from components.engine.throughput import peak_operations
from components.trees.logprobs import TreeModel, branch_tokens
from components.trees.trees import Tree, build_batch

BETA = 0.1
LOSS_TOLERANCE = 0.05  # relative: bf16 activations round a log-prob sum of some hundred tokens by tenths of a nat
ROUNDS = 5
RESPONSES = 4
ATTENTIONS = ("flex_attention", "sdpa")


@dataclass(frozen=True)
class Case:
    """A model and the lengths in tokens of its query. `recompute` turns gradient checkpointing on, if the step would not fit otherwise."""

    shape: Shape
    root_tokens: int
    response_tokens: int
    recompute: bool
    longest: int  # longest root to try
    grain: int  # precision in tokens of the longest root


SIGLIP: dict[str, Any] = {"vision_hidden": 1152, "vision_intermediate": 4304, "vision_layers": 26, "vision_heads": 16, "side": 27}
CASES = {
    "0.5b": Case(
        Shape(hidden=896, intermediate=4864, layers=24, heads=14, key_value_heads=2, vocabulary=151_936, **SIGLIP),
        root_tokens=3000,
        response_tokens=200,
        recompute=False,
        longest=131_072 - 1024,
        grain=1024,
    ),
    "7b": Case(
        Shape(hidden=3584, intermediate=18_944, layers=28, heads=28, key_value_heads=4, vocabulary=152_064, tied=False, **SIGLIP),
        root_tokens=3000,
        response_tokens=200,
        recompute=True,
        longest=131_072 - 1024,
        grain=1024,
    ),
}
DRY_CASES = {
    "0.5b": Case(TRIAL, root_tokens=40, response_tokens=8, recompute=False, longest=160, grain=32),
    "7b": Case(replace(TRIAL, tied=False), root_tokens=40, response_tokens=8, recompute=True, longest=160, grain=32),
}


class Policy:
    """A policy on the device with its optimizer, and steps over trees."""

    def __init__(self, case: Case, attention: str, device: str) -> None:
        processor = build_processor(case.shape.side)
        self.device = device
        self.pad_id: int = processor.tokenizer.pad_token_id
        self.model = build_model(case.shape, processor, dtype=torch.bfloat16, device=device, attention=attention)
        if case.recompute:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.model.train()
        self.optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=0.0, weight_decay=0.0, fused=True)
        self.task: Task = build_task(
            case.shape,
            processor,
            self.model.config,
            responses=RESPONSES,
            root_tokens=case.root_tokens,
            response_tokens=case.response_tokens,
        )

    def log_probs(self, model: Any, tree: Tree) -> tuple[Tensor, Tensor]:
        """Log-prob sums and lengths of a tree's responses [K]."""
        batch = build_batch([tree], tree.tokens, self.device, self.pad_id)
        log_prob_K = TreeModel(model)(batch)
        assert isinstance(log_prob_K, Tensor)
        return log_prob_K, branch_tokens(batch)

    def loss(self, tree: Tree, reference_K: Tensor) -> float:
        """Forward and backward over all pairs of a tree."""
        log_prob_K, tokens_K = self.log_probs(self.model, tree)
        winners, losers = (torch.tensor(column, device=self.device) for column in zip(*self.task.pairs, strict=True))
        count = len(self.task.pairs)
        even = torch.full((count,), 1 / count, device=self.device)
        pairs = PairBatch(winners, losers, torch.full((count,), BETA, device=self.device), even)
        loss = pair_loss(log_prob_K, reference_K, tokens_K, pairs, LossSettings(sft_weight=0.0)).loss
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def step(self, tree: Tree, reference_K: Tensor) -> float:
        """A whole optimizer step."""
        loss = self.loss(tree, reference_K)
        self.update()
        return loss

    def update(self) -> None:
        """Run AdamW and drop the gradients."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def tree(self, root_tokens: int) -> Tree:
        """The query with its text repeated up to `root_tokens`."""
        tree = self.task.tree
        ids = list(tree.root.input_ids)
        text = [ids[-1]] * (root_tokens - len(ids))
        return replace(tree, root=replace(tree.root, input_ids=(*ids, *text)))


def fits(work: Callable[[], object]) -> bool:
    """Whether `work` fits the device's memory; frees its memory afterwards."""
    try:
        work()
    except torch.OutOfMemoryError:
        return False
    finally:
        free()
    return True


def free() -> None:
    """Release unused device memory and reset its peak."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def longest_root(works: Callable[[int], bool], shortest: int, longest: int, grain: int) -> int | None:
    """The longest root in tokens for which `works` is true, by bisection to `grain` tokens. None if `shortest` fails."""
    if not works(shortest):
        return None
    if works(longest):
        return longest
    good, bad = shortest, longest
    while bad - good > grain:
        middle = good + (bad - good) // 2
        middle = max(good + 1, middle - middle % grain)
        good, bad = (middle, bad) if works(middle) else (good, middle)
    return good


def measure(case: Case, attention: str, rounds: int, device: str) -> Report:
    """Measure one model with one attention: time, MFU, memory, and the longest root."""
    policy = Policy(case, attention, device)
    tree = policy.task.tree
    report: Report = {"attention": attention, "recompute": case.recompute, "tree_tokens": tree.tokens}
    with torch.no_grad():
        reference_K, _ = policy.log_probs(policy.model, tree)
    free()
    if not fits(lambda: policy.step(tree, reference_K)):
        return {**report, "step_seconds": None, "mfu": None, "peak_memory_gb": None, "longest_root_tokens": None}
    # The timing starts after compilation and the allocation of the optimizer's states.
    timing = interleave({"step": lambda: policy.step(tree, reference_K)}, rounds, wait)["step"]
    operations = step_operations(case.shape, case.root_tokens, [case.response_tokens] * RESPONSES)
    peak = peak_operations()
    mfu = None if peak is None else operations / timing.seconds / peak
    if mfu is not None and mfu > 1:
        raise SystemExit(f"an MFU of {mfu:.2f} exceeds 1: the device did not do all of a step's work, or its peak is another")
    report |= {
        "step_seconds": timing.seconds,
        "runs": list(timing.wall),
        "tokens_per_second": tree.tokens / timing.seconds,
        "operations": operations,
        "mfu": mfu,
        "peak_memory_gb": torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None,
    }

    def works(tokens: int) -> bool:
        fitted = fits(lambda: policy.step(policy.tree(tokens), reference_K))
        policy.optimizer.zero_grad(set_to_none=True)  # a step that runs out of memory leaves gradients
        return fitted

    report["longest_root_tokens"] = longest_root(works, case.root_tokens, case.longest, case.grain)
    return report


def against_trl(case: Case, rounds: int, device: str) -> Report:
    """TRL's step with a reference model against ours with a store, both with sdpa; nulls if TRL is missing or does not fit."""
    missing: Report = {"trl_seconds": None, "tree_seconds": None, "speedup_vs_trl_stored": None, "losses": None, "trl_batch": None}
    if find_spec("trl") is None:
        return missing
    try:
        return _against_trl(case, rounds, device)
    except torch.OutOfMemoryError:
        return missing
    finally:
        free()


def _against_trl(case: Case, rounds: int, device: str) -> Report:
    from benchmarks._trl import TrlSide

    policy = Policy(case, "sdpa", device)
    reference = moved_copy(policy.model).eval().requires_grad_(False)
    tree = policy.task.tree
    with torch.no_grad():
        reference_K, _ = policy.log_probs(reference, tree)
    with tempfile.TemporaryDirectory() as folder:
        trl = TrlSide(policy.model, reference, policy.task, BETA, Path(folder))

    def by_trl(batches: Sequence[Any]) -> float:
        loss = trl.losses_and_gradients(batches)
        policy.update()
        return loss

    losses = {"tree": policy.step(tree, reference_K), "trl": by_trl(trl.apart)}
    if abs(losses["tree"] - losses["trl"]) > LOSS_TOLERANCE * abs(losses["trl"]):
        raise SystemExit(f"the sides compute different losses: {losses}")
    free()
    ways: dict[str, Callable[[], float]] = {"pair by pair": lambda: by_trl(trl.apart)}
    if fits(lambda: by_trl(trl.together)):
        ways["all pairs in one batch"] = lambda: by_trl(trl.together)
    policy.optimizer.zero_grad(set_to_none=True)
    timings = interleave({"tree": lambda: policy.step(tree, reference_K), **ways}, rounds, wait)
    chosen = min(ways, key=lambda way: timings[way].seconds)
    return {
        "trl_seconds": timings[chosen].seconds,
        "tree_seconds": timings["tree"].seconds,
        **ratios({"speedup_vs_trl_stored": Ratio(timings[chosen], timings["tree"])}, small=device == "cpu"),
        "losses": losses,
        "trl_batch": chosen,
    }


def wait() -> None:
    """Wait until the device has finished all its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def run(*, dry: bool, threads: int, rounds: int, names: Sequence[str] = tuple(CASES)) -> Report:
    """Every model of `names` with every attention."""
    if not dry and not torch.cuda.is_available():
        return {"skipped": "no GPU"}
    device = "cpu" if dry else "cuda"
    models: Report = {}
    for name in names:
        case = (DRY_CASES if dry else CASES)[name]
        by_attention = {}
        for attention in ATTENTIONS:
            by_attention[attention] = measure(case, attention, rounds, device)
            free()
        models[name] = {
            "root_tokens": case.root_tokens,
            "response_tokens": case.response_tokens,
            "responses": RESPONSES,
            **by_attention,
            **against_trl(case, rounds, device),
        }
    reached = [report["mfu"] for model in models.values() for report in (model[attention] for attention in ATTENTIONS) if report["mfu"]]
    return {
        "benchmark": "gpu",
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu (dry run: no measurement)",
        "dtype": "bfloat16",
        "best_mfu": max(reached, default=None),
        "models": models,
        "rounds": rounds,
        "machine": machine(threads),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    options = parser(__doc__ or "")
    options.add_argument("--dry", action="store_true", help="minute shapes on the CPU, to exercise the code")
    options.add_argument("--models", nargs="+", choices=CASES, default=list(CASES), help="which models (default: all)")
    chosen = options.parse_args(arguments)
    use_threads(chosen.threads)
    dry = chosen.dry or chosen.small
    show(lambda: run(dry=dry, threads=chosen.threads, rounds=chosen.rounds or ROUNDS, names=chosen.models), chosen.json)


if __name__ == "__main__":
    main(sys.argv[1:])
