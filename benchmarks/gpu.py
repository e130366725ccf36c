"""Training and writing on a GPU: step time, MFU, peak memory, the longest root that fits, and tokens a second of critiques.

Shapes are those of LLaVA-OneVision 0.5B, and 7B with 12 of its 28 layers, so that one device holds weights, gradients and AdamW's state. Weights
are random. Steps are taken by the engine and the settings of profiles/llava-ov-7b.yaml on one rank (DeepSpeed ZeRO-3 in bf16; DDP, named
in the report, where deepspeed is not installed): trees of K = 2 and of K = 4 responses, with flex attention and with sdpa, the vision tower's
output cached, reference log-probs from a store. Each measurement has a process of its own; one that runs out of memory reports null.

TRL's DPOTrainer, which can't store reference log-probs for images, runs the same pairs with a reference model, if trl is installed and its step
fits: there both sides step by torch's AdamW on bf16 weights.

    python -m benchmarks.gpu --json

Without a GPU it prints {"skipped": "no GPU"}. With --dry it runs all code on the CPU with minute shapes, which does not measure speed. Goal: an
MFU of 45 % at the 7B shape. `--seconds` bounds the whole: what has no time left is reported as such.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks._gpu_engine import BETA, Case, engine
from benchmarks._harness import ROOT, Ratio, Report, interleave, machine, parser, ratios, show, use_threads
from benchmarks._models import TRIAL, Shape, build_model, build_processor, build_task, moved_copy
from benchmarks._operations import language_operations, projector_operations
from components.alignment.losses import LossSettings, PairBatch, pair_loss
from components.engine.throughput import peak_operations
from components.generation.decoding import decode
from components.trees.logprobs import TreeModel, branch_tokens
from components.trees.trees import build_batch, tree_pairs

LOSS_TOLERANCE = 0.05  # relative: bf16 activations round a log-prob sum of some hundred tokens by tenths of a nat
ROUNDS = 5
WARM_STEPS = 2  # kernels are compiled, and the optimizer's states allocated
ATTENTIONS = ("flex_attention", "sdpa")
RESPONSES = (2, 4)
WRITTEN = 64  # critiques that are written together
WRITTEN_TOKENS = 64
SECONDS = 420.0

SIGLIP: dict[str, Any] = {"vision_hidden": 1152, "vision_intermediate": 4304, "vision_layers": 26, "vision_heads": 16, "side": 27}
CASES = {
    "7b": Case(
        Shape(hidden=3584, intermediate=18_944, layers=12, heads=28, key_value_heads=4, vocabulary=152_064, tied=False, **SIGLIP),
        root_tokens=3000,
        response_tokens=200,
        recomputation="selective",
    ),
    "0.5b": Case(
        Shape(hidden=896, intermediate=4864, layers=24, heads=14, key_value_heads=2, vocabulary=151_936, **SIGLIP),
        root_tokens=3000,
        response_tokens=200,
        recomputation="none",
    ),
}
DRY_CASES = {
    "7b": Case(replace(TRIAL, tied=False), root_tokens=40, response_tokens=8, recomputation="selective", longest=160, grain=32),
    "0.5b": Case(TRIAL, root_tokens=40, response_tokens=8, recomputation="none", longest=160, grain=32),
}


def has_deepspeed() -> bool:
    """Whether the profiles' engine can be measured."""
    return find_spec("deepspeed") is not None


def engine_settings(*, dry: bool) -> dict[str, Any]:
    """What a measurement changes of the profile's section `training`."""
    values: dict[str, Any] = {} if has_deepspeed() else {"engine": "ddp"}
    return values | ({"precision": "fp32"} if dry else {})


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


def step_operations(case: Case, responses: int) -> int:
    """Operations of one step: forward and backward of language model, head and projector over all trees."""
    root, branches = case.root_tokens, [case.response_tokens] * responses
    tokens, targets = root + sum(branches), sum(branches)
    tree = language_operations(case.shape).training(tokens, targets, tree_pairs(root, branches)) + 3 * projector_operations(case.shape)
    return case.trees * tree


def measure_steps(case: Case, attention: str, responses: int, rounds: int, *, dry: bool) -> Report:
    """Step time, MFU and memory with one attention and one number of responses; of K = 4 also the longest root."""
    device = "cpu" if dry else "cuda"
    with engine(case, responses, attention, device, **engine_settings(dry=dry)) as (_, task, steps):
        steps(WARM_STEPS)
        reset_peak()
        trial = steps(rounds)
        seconds = median(trial.seconds)
        operations, peak = step_operations(case, responses), peak_operations()
        mfu = None if peak is None else operations / seconds / peak
        if mfu is not None and mfu > 1:
            raise SystemExit(f"an MFU of {mfu:.2f} exceeds 1: the device did not do all of a step's work, or its peak is another")
        report: Report = {
            "step_seconds": seconds,
            "runs": trial.seconds,
            "tree_tokens": task.tree.tokens,
            "trees": case.trees,
            "tokens_per_second": case.trees * task.tree.tokens / seconds,
            "operations": operations,
            "mfu": mfu,
            "peak_memory_gb": torch.cuda.max_memory_allocated() / 1e9 if not dry else None,
        }
        if responses == max(RESPONSES):

            def works(tokens: int) -> bool:
                try:
                    steps(1, root_tokens=tokens)
                except torch.OutOfMemoryError:
                    return False
                finally:
                    reset_peak()
                return True

            report["longest_root_tokens"] = longest_root(works, case.root_tokens, case.longest, case.grain)
    return report


def reset_peak() -> None:
    """Release unused device memory and reset its peak."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def measure_writing(case: Case, rounds: int, *, dry: bool) -> Report:
    """Tokens a second of critiques, each after one of a query's responses: WRITTEN rows, all of WRITTEN_TOKENS tokens."""
    device = "cpu" if dry else "cuda"
    processor = build_processor(case.shape.side)
    model = build_model(case.shape, processor, dtype=torch.float32 if dry else torch.bfloat16, device=device).eval()
    responses = max(RESPONSES)
    task = build_task(
        case.shape, processor, model.config, responses=responses, root_tokens=case.root_tokens, response_tokens=case.response_tokens
    )
    rows = responses if dry else WRITTEN
    suffixes = [list(task.branch(number % responses).input_ids) for number in range(rows)]
    never = processor.tokenizer.pad_token_id  # random weights would end a text anywhere

    def write() -> None:
        decode(model, [task.root] * rows, suffixes, max_new_tokens=WRITTEN_TOKENS, batch_size=rows, end_id=never)

    write()
    timing = interleave({"write": write}, rounds, wait)["write"]
    return {"rows": rows, "seconds": timing.seconds, "runs": list(timing.wall), "tokens_per_second": rows * WRITTEN_TOKENS / timing.seconds}


def wait() -> None:
    """Wait until the device has finished all its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def against_trl(case: Case, rounds: int, *, dry: bool) -> Report:
    """TRL's step with a reference model against ours with a store, K = 4, both with sdpa; nulls if TRL is missing."""
    if find_spec("trl") is None:
        return {"trl_seconds": None, "tree_seconds": None, "speedup_vs_trl_stored": None, "losses": None, "trl_batch": None}
    from benchmarks._trl import TrlSide

    device, responses = "cpu" if dry else "cuda", max(RESPONSES)
    processor = build_processor(case.shape.side)
    model = build_model(case.shape, processor, dtype=torch.bfloat16, device=device)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.0, weight_decay=0.0, fused=True)
    task = build_task(
        case.shape, processor, model.config, responses=responses, root_tokens=case.root_tokens, response_tokens=case.response_tokens
    )
    reference = moved_copy(model).eval().requires_grad_(False)
    pad_id = processor.tokenizer.pad_token_id

    def scored(which: Any) -> tuple[Tensor, Tensor]:
        batch = build_batch([task.tree], task.tree.tokens, device, pad_id)
        log_prob_K = TreeModel(which)(batch)
        assert isinstance(log_prob_K, Tensor)
        return log_prob_K, branch_tokens(batch)

    with torch.no_grad():
        reference_K, _ = scored(reference)
    winners, losers = (torch.tensor(column, device=device) for column in zip(*task.pairs, strict=True))
    even = torch.full((len(task.pairs),), 1 / len(task.pairs), device=device)
    pairs = PairBatch(winners, losers, torch.full_like(even, BETA), even)

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def by_tree() -> float:
        log_prob_K, tokens_K = scored(model)
        loss = pair_loss(log_prob_K, reference_K, tokens_K, pairs, LossSettings(sft_weight=0.0)).loss
        loss.backward()  # type: ignore[no-untyped-call]
        update()
        return float(loss.detach())

    with tempfile.TemporaryDirectory() as folder:
        trl = TrlSide(model, reference, task, BETA, Path(folder))

    def by_trl(batches: Sequence[Any]) -> float:
        loss = trl.losses_and_gradients(batches)
        update()
        return loss

    losses = {"tree": by_tree(), "trl": by_trl(trl.apart)}
    if abs(losses["tree"] - losses["trl"]) > LOSS_TOLERANCE * abs(losses["trl"]):
        raise SystemExit(f"the sides compute different losses: {losses}")
    ways: dict[str, Callable[[], float]] = {"pair by pair": lambda: by_trl(trl.apart)}
    try:
        by_trl(trl.together)
        ways["all pairs in one batch"] = lambda: by_trl(trl.together)
    except torch.OutOfMemoryError:
        optimizer.zero_grad(set_to_none=True)
        reset_peak()
    timings = interleave({"tree": by_tree, **ways}, rounds, wait)
    chosen = min(ways, key=lambda way: timings[way].seconds)
    return {
        "trl_seconds": timings[chosen].seconds,
        "tree_seconds": timings["tree"].seconds,
        **ratios({"speedup_vs_trl_stored": Ratio(timings[chosen], timings["tree"])}, small=dry),
        "losses": losses,
        "trl_batch": chosen,
    }


# A measurement's name, and its parts as the command line of its process has them.
MEASUREMENTS = [*(f"steps:{attention}:{responses}" for attention, responses in product(ATTENTIONS, RESPONSES)), "writing", "trl"]


def measure(name: str, model: str, rounds: int, *, dry: bool) -> Report:
    """One measurement in this process."""
    case = (DRY_CASES if dry else CASES)[model]
    kind, *parts = name.split(":")
    if kind == "writing":
        return measure_writing(case, rounds, dry=dry)
    if kind == "trl":
        return against_trl(case, rounds, dry=dry)
    attention, responses = parts
    return measure_steps(case, attention, int(responses), rounds, dry=dry)


def measured_apart(name: str, model: str, rounds: int, threads: int, seconds: float, *, dry: bool) -> Report:
    """One measurement in a process of its own; `failed` says why there is none."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--measure", name, "--models", model]
    command += ["--rounds", str(rounds), "--threads", str(threads), *(["--dry"] if dry else [])]
    if seconds <= 0:
        return {"failed": "no time was left"}
    try:
        ended = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"failed": f"it took more than the {seconds:.0f} s that were left"}
    if ended.returncode != 0:
        lines = ended.stderr.strip().splitlines()
        return {"failed": "out of memory" if "OutOfMemoryError" in ended.stderr else "\n".join(lines[-8:])}
    report: Report = json.loads(ended.stdout.strip().splitlines()[-1])
    return report


def run(*, dry: bool, threads: int, rounds: int, names: Sequence[str] = tuple(CASES), seconds: float = SECONDS) -> Report:
    """Every measurement of every model of `names`, within `seconds`."""
    if not dry and not torch.cuda.is_available():
        return {"skipped": "no GPU"}
    began = time.monotonic()
    models: Report = {}
    for model in names:
        case = (DRY_CASES if dry else CASES)[model]
        models[model] = {"layers": case.shape.layers, "root_tokens": case.root_tokens, "response_tokens": case.response_tokens}
        for name in MEASUREMENTS:
            left = seconds - (time.monotonic() - began)
            models[model][name] = measured_apart(name, model, rounds, threads, left, dry=dry)
    reached = [report["mfu"] for model in models.values() for report in model.values() if isinstance(report, dict) and report.get("mfu")]
    return {
        "benchmark": "gpu",
        "device": "cpu (dry run: no measurement)" if dry else torch.cuda.get_device_name(),
        "engine": "DeepSpeed ZeRO-3" if has_deepspeed() else "DDP (deepspeed is not installed)",
        "dtype": "float32" if dry else "bfloat16",
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
    options.add_argument("--seconds", type=float, default=SECONDS, help="for all of it")
    options.add_argument("--measure", choices=MEASUREMENTS, help="used by the benchmark itself")
    chosen = options.parse_args(arguments)
    use_threads(chosen.threads)
    dry, rounds = chosen.dry or chosen.small, chosen.rounds or ROUNDS
    if chosen.measure:
        show(lambda: measure(chosen.measure, chosen.models[0], rounds, dry=dry), as_json=True)
        return
    show(lambda: run(dry=dry, threads=chosen.threads, rounds=rounds, names=chosen.models, seconds=chosen.seconds), chosen.json)


if __name__ == "__main__":
    main(sys.argv[1:])
