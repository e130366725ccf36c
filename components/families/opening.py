"""The one way in which files of a checkpoint reach transformers: no code of the checkpoint runs, and what it raises becomes a sentence.

- `trust_remote_code=False` everywhere: unset, transformers asks on a terminal, and "y" runs the checkpoint's code.
- Files are checked before a library reads them (components.families.regular), and numbers before a model of their size is built.
- Weights must be those that the configuration describes: transformers draws missing ones at random and says so in a log.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.integrations import deepspeed as integration
from transformers.utils import logging

from components.errors import UserError
from components.families.adapters import family_of
from components.families.hub.files import BULKY, CONFIG, NUMBERED, check_code, check_config, check_weights, weight_files
from components.families.regular import REFETCH, check_numbers, check_size, read_object, require_regular, sentences

CLOSED = {"local_files_only": True, "trust_remote_code": False}  # of every opener
MOST_GROWTH = 2**10  # characters that a tokenizer may write for one of a text
SIDE, GRAY = 32, (128, 128, 128)  # of the picture that a processor is tried on


def open_config(folder: Path) -> Any:
    """The configuration of a checkpoint. Raises UserError for one that describes no model."""
    require_regular(folder, str(folder))
    if not (folder / CONFIG).exists():
        raise UserError(f"{folder} holds no {CONFIG}: it is no checkpoint in transformers' format")
    _check_texts(folder)
    with sentences(folder, CONFIG):
        config = AutoConfig.from_pretrained(folder, **CLOSED)
        family = family_of(config)
        vocabulary, _ = config.text_config.vocab_size, config.vision_config
        beyond = [number for number in family.placeholder_ids(config) if not 0 <= number < vocabulary]
    if beyond:
        raise UserError(f"{folder}/{CONFIG} gives media the token {beyond[0]}, of which the vocabulary has {vocabulary:,}: {REFETCH}")
    return config


def open_processor(folder: Path) -> Any:
    """The processor of a checkpoint with its tokenizer and chat template."""
    require_regular(folder, str(folder))
    _check_texts(folder)
    with sentences(folder, "the processor"):
        processor = AutoProcessor.from_pretrained(folder, **CLOSED)
        _ = processor.tokenizer.added_tokens_decoder, processor.image_processor, processor.image_token, processor.video_token
        growth = max(_growth(part) for part in _rewriting(processor.tokenizer))
        pixels = processor.image_processor(images=[Image.new("RGB", (SIDE, SIDE), GRAY)], return_tensors="pt")["pixel_values"]
        sound = pixels.numel() > 0 and bool(torch.isfinite(pixels).all())
    if growth > MOST_GROWTH:
        raise UserError(f"the tokenizer in {folder} writes {growth:,} characters for one of a text: don't trust this checkpoint")
    if not sound:
        raise UserError(f"the image processor in {folder} makes no finite numbers of a gray picture: {REFETCH}")
    return processor


def check_model(folder: Path) -> None:
    """Raises UserError for weight files with fewer numbers than the model has that config.json describes: it would not be all theirs."""
    config = open_config(folder)
    present = sum(check_weights(folder, str(folder)).values())
    with sentences(folder, "config.json"), whole_weights():
        described = sum(parameter.numel() for parameter in meta_model(config).parameters())
    if present < described:
        raise UserError(f"the weights in {folder} have {present:,} numbers, and its config.json describes {described:,}: {REFETCH}")


def check_finite(folder: Path) -> None:
    """Raises UserError for weights that are no finite numbers. Reads all weights, a tensor at a time."""
    for name in weight_files(folder, str(folder)):
        with sentences(folder, name), safe_open(folder / name, "pt") as opened:
            for key in opened.keys():  # noqa: SIM118 -- not a mapping
                _require_finite(key, opened.get_tensor(key), folder)


def open_weights(folder: Path, dtype: torch.dtype) -> Any:
    """The model in a checkpoint folder, attending by sdpa. Raises UserError for weights that are missing, misshapen or not finite."""
    check_model(folder)
    with sentences(folder, "the weights"), _without_report():
        model, loading = AutoModelForImageTextToText.from_pretrained(
            folder, use_safetensors=True, dtype=dtype, attn_implementation="sdpa", output_loading_info=True, **CLOSED
        )
    for what in ("missing_keys", "mismatched_keys"):
        names = sorted(str(name) for name in loading.get(what, ()))
        if names:
            raise UserError(
                f"the weights in {folder} lack {len(names)} tensors of the model that its config.json describes, {names[0]} first: {REFETCH}"
            )
    modules = {name for name, _ in model.named_modules()}
    unused = sorted(name for name in loading.get("unexpected_keys", ()) if str(name).rpartition(".")[0] in modules)
    if unused:  # tensors of whole modules that the model lacks, such as further heads, are left out
        raise UserError(
            f"the weights in {folder} hold {len(unused)} tensors for modules that by its config.json have none, {unused[0]} first, so it "
            f"describes another model: {REFETCH}"
        )
    for name, parameter in model.named_parameters():
        _require_finite(name, parameter, folder)
    return model


def open_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file beside a checkpoint (adapters, a score head)."""
    require_regular(path.parent, str(path.parent))
    with sentences(path.parent, path.name):
        tensors: dict[str, Tensor] = load_file(path)
    for name, tensor in tensors.items():
        _require_finite(name, tensor, path)
    return tensors


def meta_model(config: Any) -> Any:
    """A model of this configuration without memory for its weights."""
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config, trust_remote_code=False)


@contextmanager
def whole_weights() -> Iterator[None]:
    """Inside, transformers opens whole models on this rank, although training with ZeRO-3 has set it to partition them."""
    reference = integration._hf_deepspeed_config_weak_ref  # noqa: SLF001 -- transformers has functions to set and unset it, and none to read it
    active = None if reference is None else reference()
    integration.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if active is not None:
            integration.set_hf_deepspeed_config(active)


@contextmanager
def _without_report() -> Iterator[None]:
    """Inside, transformers logs no colored table of the weights that did not fit: the caller raises."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _rewriting(tokenizer: Any) -> Iterator[Any]:
    """The descriptions of what rewrites texts before and after tokens; the first is None."""
    yield None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    for part in (getattr(backend, "normalizer", None), getattr(backend, "decoder", None)):
        if part is not None:
            yield json.loads(part.__getstate__())  # tokenizers' own description


def _growth(part: Any) -> int:
    """How many characters one character of a text may become."""
    if not isinstance(part, dict):
        return 1
    inner = math.prod(_growth(one) for name in ("normalizers", "decoders") for one in part.get(name) or ())
    return max(1, len(part.get("content") or "")) * (1 + len(part.get("prepend") or "")) * inner


def _check_texts(folder: Path) -> None:
    """Raises UserError for JSON of a checkpoint that is no object, names code, or has absurd numbers."""
    for path in sorted(folder.glob("*.json")):
        if not path.is_file():
            raise UserError(f"{folder}/{path.name} is a folder, not a file of a checkpoint: {REFETCH}")
        check_size(path, str(folder))
        if path.name in BULKY:  # read by libraries that run nothing
            continue
        content = read_object(path, str(folder))
        check_code(content, f"{folder}/{path.name}")
        if path.name == CONFIG:
            check_config(content, f"{folder}/{CONFIG}")
        elif path.name in NUMBERED:
            check_numbers(content, f"{folder}/{path.name}")


def _require_finite(name: str, tensor: Tensor, where: Path) -> None:
    # The sum of a number and NaN or infinity is no number again, and a sum needs no memory. A partitioned parameter is empty here.
    if tensor.is_floating_point() and not torch.isfinite(tensor.detach().sum(dtype=torch.float32)):
        raise UserError(f"{where} has values in {name} that are no finite numbers, so the checkpoint is damaged: {REFETCH}")
