"""Trains the bundled base model from random weights: `mmalign demo train-base`. It takes some 40 minutes on two free cores.

- In phase 1 the vision tower learns to see. In phase 2 the language model learns to answer, then also to check. Phase 3 trains both tasks and
  draws the harder families more often. Each phase saves its weights in `.mmalign/demo-base`, from which an interrupted run resumes.
- `--start FOLDER` takes the weights of an earlier base in place of the first two phases, with a vector for each new word, and trains the language
  model alone: its answers and checks in all wordings of `demo.wordings`. That is how the bundled base learned the words of its second version.
- Training uses only images of the package's training part. It leaves out every tenth, on which `measure_base` measures the finished base.
- The seed fixes every draw. Other machines and libraries round sums differently: their base has about the same accuracy, other weights.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from components.checkout import Checkout
from components.errors import UserError
from components.files import write_json
from demo.architecture import build_model
from demo.checkpoint import build_processor, save_checkpoint, token_ids
from demo.images import Picture, load_pictures
from demo.language import Schedule, train_language
from demo.measure import measure_base
from demo.rows import FIRST_MIX, SECOND_MIX, WORDS_MIX, RowMaker
from demo.text import train_tokenizer
from demo.vision import train_vision

THREADS = 1
SEED = 0
VISION_STEPS = 4000
WORDS_STEPS = 800
LEFT_OUT = 10  # training leaves out every tenth picture, to measure on

logger = logging.getLogger(__name__)


def split_pictures() -> tuple[list[Picture], list[Picture]]:
    """Training pictures to learn from, and those to measure on."""
    pictures = load_pictures("train")
    learned = [picture for picture in pictures if picture.number % LEFT_OUT != LEFT_OUT - 1]
    return learned, [picture for picture in pictures if picture.number % LEFT_OUT == LEFT_OUT - 1]


def train_base(checkout: Checkout, steps_share: float = 1.0, start: Path | None = None) -> dict[str, Any]:
    """Train the base of `checkout`, write it to `data/base`, and return its metrics on the pictures that training leaves out.

    `start` is the folder of an earlier base of this architecture to go on from. `steps_share` below 1 makes a quick trial of every phase, of no
    other use. The base learns to check answers under the judge's instruction in `params.yaml`. The metrics also go to
    `.mmalign/demo-base/figures.json`. Raises UserError without the package `easy-vqa`.
    """
    instruction = checkout.settings().reward.instruction
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
        "1-tower": lambda: train_vision(model, learned, steps=steps(VISION_STEPS), seed=SEED, heldout=left_out),
        "2-answers": lambda: train_language(model, maker, learned, Schedule(steps(2600), 1.5e-3, SEED, FIRST_MIX, checks_from=steps(312))),
        "3-checks": lambda: train_language(model, maker, learned, Schedule(steps(2400), 8e-4, SEED + 1, SECOND_MIX, checks_from=0)),
    }
    if start is not None:
        adopt(model, tokenizer, start)
        schedule = Schedule(steps(WORDS_STEPS), 1e-3, SEED + 2, WORDS_MIX, checks_from=0)
        phases = {"words": lambda: train_language(model, maker, learned, schedule)}
    scratch = checkout.state / "demo-base"
    for name, phase in phases.items():
        run_phase(model, scratch / f"{name}.safetensors", phase)
    save_checkpoint(model, build_processor(tokenizer), checkout.data / "base")
    with tempfile.TemporaryDirectory() as folder:
        metrics = measure_base(checkout.data / "base", left_out, Path(folder), instruction, each=100)
    write_json(scratch / "figures.json", metrics)
    return metrics


def adopt(model: Any, tokenizer: Any, folder: Path) -> None:
    """Give `model` the weights of the base in `folder`; a token that the base lacks keeps its untrained vector.

    Raises UserError if `folder` holds no base of this architecture.
    """
    from components.families.loading import load_model
    from components.families.opening import open_processor

    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no checkpoint: give the folder of an earlier base, such as a copy of data/base")
    earlier = load_model(folder)
    rows_of = open_processor(folder).tokenizer.get_vocab()
    state = dict(earlier.state_dict())
    name = next(name for name, value in earlier.state_dict(keep_vars=True).items() if value is earlier.get_input_embeddings().weight)
    vectors = model.get_input_embeddings().weight.detach().clone()
    if state[name].shape[1] != vectors.shape[1]:
        raise UserError(f"{folder} is {state[name].shape[1]} wide, the demo's base {vectors.shape[1]}: give a base of the demo")
    for token, row in tokenizer.get_vocab().items():
        if token in rows_of:
            vectors[row] = state[name][rows_of[token]]
    state[name] = vectors
    state.pop("lm_head.weight", None)  # tied to the embedding
    model.load_state_dict(state, strict=False)
    model.tie_weights()


def run_phase(model: Any, path: Path, phase: Callable[[], object]) -> None:
    """Run a phase and save the weights to `path`, or load the weights that an earlier run saved there."""
    from safetensors.torch import load_file, save_file

    if path.is_file():
        logger.info("%s exists: the phase is skipped; remove its folder to train from the start", path)
        # The head is tied to the embedding, so that the file lacks it.
        model.load_state_dict(load_file(path), strict=False)
        return
    phase()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file({name: value.contiguous() for name, value in model.state_dict().items() if name != "lm_head.weight"}, temporary)
    temporary.replace(path)
