"""One rank of a stage that trains nothing, started by torchrun: `python -m components.engine.inference_worker --factory ... --stage critique`.

From top to bottom: end with the launcher, set threads and device, build the tasks, compute this rank's batches, say how it went.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

from components.config.settings import parse_settings
from components.engine import watchdog
from components.engine.launcher import leave_fault
from components.files import read_json, write_json


def main() -> None:
    """Run a rank; a failure is left in `fault-RANK.json` of the scratch folder for the launcher to tell."""
    options = _options()
    watchdog.end_with(options.launcher, options.launcher_started)
    try:
        run(options)
    except BaseException as error:
        leave_fault(options.scratch, int(os.environ["RANK"]), error)
        raise


def run(options: argparse.Namespace) -> None:
    """Compute this rank's share of every task, in order."""
    began = time.monotonic()
    import torch

    from components.engine.inference import ARGUMENTS, PLAN, SETTINGS, build_tasks, compute_batch, finishing, meter_of
    from components.engine.ranks import inference_section, ranks_of_process
    from components.engine.throughput import peak_memory_gb

    settings = parse_settings(read_json(options.scratch / SETTINGS), str(options.scratch / SETTINGS))
    torch.set_num_threads(inference_section(settings, options.stage).threads)
    ranks = ranks_of_process(settings, options.stage)
    if ranks.device.type == "cuda":
        torch.cuda.set_device(ranks.device)
    ranks.join()
    shares = [task[ranks.rank] for task in read_json(options.scratch / PLAN)]
    tasks = build_tasks(options.factory, settings, options.root, read_json(options.scratch / ARGUMENTS))
    startup = time.monotonic() - began
    meters = []
    with (options.scratch / f"progress-{ranks.rank}.jsonl").open("w", encoding="utf-8") as progress:
        for number, (task, share) in enumerate(zip(tasks, shares, strict=True)):
            started = time.monotonic()
            with finishing(task):
                for batch, counts in share:
                    progress.write(json.dumps([number, compute_batch(task, batch, ranks, counts=counts)]) + "\n")
                    progress.flush()
            if share:
                meters.append(meter_of(task, time.monotonic() - started))
    end = {
        "startup_seconds": startup,
        "parameters": max((meter.parameters for meter in meters), default=0),
        "tokens": sum(meter.tokens for meter in meters),
        "slots": sum(meter.slots for meter in meters),
        "seconds": sum(meter.seconds for meter in meters),
        "peak_gb": peak_memory_gb(),
    }
    write_json(options.scratch / f"finished-{ranks.rank}.json", end)
    ranks.leave()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--factory", required=True, help="module:function that builds the tasks from (settings, root, arguments)")
    parser.add_argument("--stage", required=True, choices=["critique", "reference", "evaluate"])
    parser.add_argument("--root", type=Path, required=True, help="root of the checkout")
    parser.add_argument("--scratch", type=Path, required=True, help="folder with the plan, the settings and the arguments")
    parser.add_argument("--launcher", type=int, required=True, help="pid of the process that this one ends with")
    parser.add_argument("--launcher-started", type=float, required=True, help="when that process was started")
    return parser.parse_args()


if __name__ == "__main__":
    main()
