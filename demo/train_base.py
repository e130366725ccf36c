"""Trains the bundled base model from nothing: `mmalign demo train-base`. Some 40 minutes on two free cores.

- Three phases: the tower learns to see, the language model learns to answer and then to check, and both at once with the harder families
  drawn more often. Each finished phase is kept in `.mmalign/demo-base`, so that a run that was cut goes on after it.
- Images of the package's training part only; every tenth of them is left out, and the finished base is measured on those.
- The seed fixes every draw. Elsewhere, or with other libraries, sums round differently: the base comes out equally good, not equal.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from components.config.settings import load_settings
from components.errors import UserError
from components.files import write_json
from demo.architecture import build_model
from demo.checkpoint import build_processor, save_checkpoint, token_ids
from demo.images import Picture, load_pictures
from demo.language import train_language
from demo.measure import measure_base
from demo.rows import FIRST_MIX, SECOND_MIX, RowMaker
from demo.text import train_tokenizer
from demo.tower import train_tower

THREADS = 2
SEED = 0
TOWER_STEPS = 4000
LEFT_OUT = 10  # every tenth picture is left out of training, to measure on

logger = logging.getLogger(__name__)


def split_pictures() -> tuple[list[Picture], list[Picture]]:
    """Training pictures to learn from, and those to measure on."""
    pictures = load_pictures("train")
    learned = [picture for picture in pictures if picture.number % LEFT_OUT != LEFT_OUT - 1]
    return learned, [picture for picture in pictures if picture.number % LEFT_OUT == LEFT_OUT - 1]


def train_base(root: Path, steps_share: float = 1.0) -> dict[str, Any]:
    """Train the base of the checkout `root`, write it to `data/base`, and return its figures on the pictures that were left out.

    `steps_share` below 1 makes a quick trial of every phase, of no other use. The judge's instruction is
    the one in `params.yaml`: the base learns to check answers under it. The figures are also written to
    `.mmalign/demo-base/figures.json`. Raises UserError without the package `easy-vqa`.
    """
    instruction = load_settings(root / "params.yaml").reward.instruction
    try:
        learned, left_out = split_pictures()
    except ModuleNotFoundError as error:
        raise UserError("the package easy-vqa is not installed: run `make install`, or `pip install easy-vqa`") from error
    torch.set_num_threads(THREADS)
    tokenizer = train_tokenizer(instruction)
    model = build_model(len(tokenizer), token_ids(tokenizer), SEED)
    maker = RowMaker(tokenizer, instruction)

    def steps(whole: int) -> int:
        return max(2, round(whole * steps_share))

    phases: dict[str, Callable[[], object]] = {
        "1-tower": lambda: train_tower(model, learned, steps=steps(TOWER_STEPS), seed=SEED, held=left_out),
        "2-answers": lambda: train_language(
            model, maker, learned, steps=steps(2600), learning_rate=1.5e-3, seed=SEED, mix=FIRST_MIX, checks_from=steps(312)
        ),
        "3-checks": lambda: train_language(
            model, maker, learned, steps=steps(2400), learning_rate=8e-4, seed=SEED + 1, mix=SECOND_MIX, checks_from=0
        ),
    }
    scratch = root / ".mmalign" / "demo-base"
    for name, phase in phases.items():
        run_phase(model, scratch / f"{name}.safetensors", phase)
    save_checkpoint(model, build_processor(tokenizer), root / "data" / "base")
    with tempfile.TemporaryDirectory() as folder:
        figures = measure_base(root / "data" / "base", left_out, Path(folder), instruction, each=100)
    write_json(scratch / "figures.json", figures)
    return figures


def run_phase(model: Any, kept: Path, phase: Callable[[], object]) -> None:
    """Run a phase and keep the weights, or take those that an earlier run kept."""
    from safetensors.torch import load_file, save_file

    if kept.is_file():
        logger.info("%s is there: phase not run again; remove the folder to start anew", kept)
        # The head is the embedding under another name, and is left out of the file.
        model.load_state_dict(load_file(kept), strict=False)
        return
    phase()
    kept.parent.mkdir(parents=True, exist_ok=True)
    temporary = kept.with_suffix(".tmp")
    save_file({name: value.contiguous() for name, value in model.state_dict().items() if name != "lm_head.weight"}, temporary)
    temporary.replace(kept)
