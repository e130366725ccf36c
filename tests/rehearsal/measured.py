"""Trains a model for two steps in its own process and prints its peak memory: `python -m tests.rehearsal.measured SETTINGS`.

On a processor it is the peak of the process's resident memory less that before the model was built; on a GPU torch's peak allocation.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import psutil
import torch
import yaml

from components.config.settings import parse_settings
from components.rehearsal.parameters import architecture
from components.rehearsal.rate import cut_config, random_model, random_trees
from components.trees.logprobs import TreeModel


def main(path: Path) -> None:
    """Read settings and a configuration, train, print {"bytes": ..., "device": ...}."""
    values = yaml.safe_load(path.read_text())
    settings = parse_settings(values["settings"], str(path))
    model = architecture(values["config"])
    gpu = torch.cuda.is_available()
    torch.set_num_threads(1)
    dtype = torch.bfloat16 if settings.training.precision == "bf16" else torch.float32
    warm = TreeModel(random_model(settings, architecture(cut_config(model, 1)), 1, dtype))  # code that is loaded at first use
    del warm
    before = psutil.Process().memory_info().rss
    built = TreeModel(random_model(settings, model, model.layers, dtype)).to("cuda" if gpu else "cpu").train()
    optimizer = torch.optim.AdamW([p for p in built.parameters() if p.requires_grad], lr=1e-6)
    batch = random_trees(settings, model, built.model.device)
    for _ in range(2):
        optimizer.zero_grad(set_to_none=True)
        for _ in range(2):  # micro-batches that are accumulated: the gradients of one lie beside the activations of the next
            built(batch).sum().neg().backward()
        optimizer.step()
    peak = torch.cuda.max_memory_allocated() if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    print(json.dumps({"bytes": peak, "device": "gpu" if gpu else "cpu"}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
