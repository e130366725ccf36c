"""Low-rank adapters (LoRA) on the language model's linear layers, through peft.

- peft injects the adapters in place: `model.model.language_model` and `model.lm_head` remain the same attributes. Head and vision tower get no
  adapters, since log-probs read the head in chunks.
- A fresh adapter adds nothing (B is zero), so the untrained policy is the reference.
- A folder of adapters is peft's own: a trained projector lies among its weights, as modules that peft replaces (`modules_to_save`). Beside it
  lies no config.json, by which transformers would take the folder for a whole model.
- Only training needs peft. Export and opening both merge by `weight + scale * B @ A` in fp32, so that they give the same bits.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from components.errors import UserError
from components.families.adapters import family_of
from components.families.digests import model_digest
from components.families.opening import open_tensors
from components.families.regular import LARGEST, read_object, require_regular, sentences
from components.files import write_json
from components.preferences.faults import shorten

if TYPE_CHECKING:
    from components.config.model import LoraSettings

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # peft's own names
BASE = "base.json"
PREFIX = "base_model.model."  # peft's prefix of a layer's name
NAME = "default"  # of the adapter in peft's layers

_SETTINGS: WeakKeyDictionary[nn.Module, LoraSettings] = WeakKeyDictionary()


def add_adapters(model: Any, settings: LoraSettings, seed: int) -> None:
    """Inject fresh adapters, drawn from `seed`, into `model` and freeze all other weights."""
    from peft import LoraConfig, inject_adapter_in_model

    prefix, targets = target_layers(model, settings.targets)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        # A pattern, not a list: peft stores a list as a set, whose order differs between processes.
        target_modules=rf"{re.escape(prefix)}\..*\.({'|'.join(sorted({name.split('.')[-1] for name in targets}))})",
        bias="none",
    )
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    inject_adapter_in_model(config, model, adapter_name=NAME)
    torch.random.set_rng_state(state)
    _SETTINGS[model] = settings


def settings_of(model: nn.Module) -> LoraSettings | None:
    """The settings of the adapters in `model`, or None without adapters."""
    return _SETTINGS.get(model)


def target_layers(model: Any, targets: str) -> tuple[str, list[str]]:
    """The language model's name in `model`, and the names of its linear layers: those of attention, or all ("linear")."""
    language_model: Any = family_of(model.config).modules(model)["language_model"][0]
    prefix = next(name for name, module in model.named_modules() if module is language_model)
    names = [name for name, module in language_model.named_modules() if isinstance(module, nn.Linear)]
    return prefix, [name for name in names if targets == "linear" or name.split(".")[-2].endswith(("attn", "attention"))]


def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """The state of `model` with its adapters merged, under the names of the base. Does not change the model."""
    layers = _layers(model)
    merged: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        owner, _, rest = name.partition(".base_layer.")
        if not rest:
            if ".lora_" not in name:
                merged[name] = value
            continue
        layer = layers[owner]
        adapted = rest == "weight"
        merged[f"{owner}.{rest}"] = (
            _merged(value, layer.lora_A[NAME].weight, layer.lora_B[NAME].weight, layer.scaling[NAME]) if adapted else value
        )
    return merged


def save_adapters(model: Any, folder: Path, base: Path) -> None:
    """Write the adapters, a trained projector, and the path and digest of their base. Equal weights give equal bytes.

    peft and transformers read the base's path from the working directory, which in a stage is the checkout; `base_of` reads it from `folder`.
    """
    tensors = {}
    for name, layer in _layers(model).items():
        for part, weight in (("lora_A", layer.lora_A[NAME].weight), ("lora_B", layer.lora_B[NAME].weight)):
            tensors[f"{PREFIX}{name}.{part}.weight"] = weight.detach().cpu().contiguous()
    projector = _projector(model)
    trained = any(parameter.requires_grad for parameter in projector.values())
    if trained:
        tensors |= {f"{PREFIX}{name}": parameter.detach().cpu().contiguous() for name, parameter in projector.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = {key: sorted(value) if isinstance(value, set) else value for key, value in model.peft_config[NAME].to_dict().items()}
    config |= {"base_model_name_or_path": os.path.relpath(base), "inference_mode": True}
    write_json(folder / CONFIG, config | {"modules_to_save": _projector_modules(model) if trained else None})
    write_json(folder / BASE, {"path": os.path.relpath(base, folder), "digest": model_digest(base)})


def is_adapters(folder: Path) -> bool:
    """Whether a folder contains adapters instead of a whole model."""
    return (folder / CONFIG).is_file()


def base_of(folder: Path) -> Path:
    """The base of a folder's adapters. Raises UserError if it is missing or another model."""
    require_regular(folder, str(folder))
    named = read_object(folder / BASE, str(folder)) if (folder / BASE).is_file() else {}
    if not (isinstance(named.get("path"), str) and isinstance(named.get("digest"), str)) or "\0" in named["path"]:
        raise UserError(f"{folder / BASE} does not name the base model of these adapters (path and digest): train them again")
    base = Path(os.path.normpath(folder / named["path"]))
    if not (base / "config.json").is_file():
        raise UserError(f"the adapters in {folder} need their base model at {base}, which is missing: restore it, or set model.lora.merge")
    require_regular(base, str(base))
    if model_digest(base) != named["digest"]:
        raise UserError(f"the adapters in {folder} were trained on another model than {base} is now: restore it, or train them again")
    return base


@torch.no_grad()
def merge_folder(model: Any, folder: Path) -> None:
    """Merge a folder's adapters and projector into their opened base. Raises UserError for adapters that do not fit it."""
    tensors = open_tensors(folder / WEIGHTS)
    config = read_object(folder / CONFIG, str(folder))
    with sentences(folder, WEIGHTS):
        _merge(model, tensors, _scale(config, folder))


def _scale(config: Mapping[str, Any], folder: Path) -> float:
    alpha, rank = config.get("lora_alpha"), config.get("r")
    if not (isinstance(rank, int) and 1 <= rank <= LARGEST and isinstance(alpha, int | float) and abs(alpha) <= LARGEST):
        raise UserError(f"{folder / CONFIG} sets r to {shorten(rank)} and lora_alpha to {shorten(alpha)}: train the adapters again")
    return float(alpha / rank)


def _merge(model: Any, tensors: Mapping[str, Tensor], scale: float) -> None:
    for name in sorted(name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")):
        weight = model.get_submodule(name.removeprefix(PREFIX)).weight
        down, up = (tensors[f"{name}.lora_{letter}.weight"].to(weight.device) for letter in "AB")
        with _writable(weight):
            weight.copy_(_merged(weight, down, up, scale))
    for name, value in tensors.items():
        if ".lora_" not in name:
            parameter = model.get_parameter(name.removeprefix(PREFIX))
            with _writable(parameter):
                parameter.copy_(value)


def _writable(weight: Tensor) -> AbstractContextManager[None]:
    """Inside, a weight that ZeRO-3 has partitioned is whole, and all ranks get the changes of rank 0."""
    if "ds_id" not in vars(weight):
        return nullcontext()
    from deepspeed import zero

    return zero.GatheredParameters([weight], modifier_rank=0)  # type: ignore[no-any-return]


def _merged(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    return (weight.detach().float() + scale * (up.detach().float() @ down.detach().float())).to(weight.dtype)


def _projector(model: Any) -> dict[str, nn.Parameter]:
    members = family_of(model.config).modules(model)["projector"]
    own = {id(p) for member in members for p in ([member] if isinstance(member, nn.Parameter) else member.parameters())}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in own}


def _projector_modules(model: Any) -> list[str]:
    """The names of the projector's modules, each of the modules of a list. peft loads parameters of no module by their names alone."""
    members = family_of(model.config).modules(model)["projector"]
    single = [
        one for member in members if isinstance(member, nn.Module) for one in (member if isinstance(member, nn.ModuleList) else [member])
    ]
    own = {id(module) for module in single}
    return [name for name, module in model.named_modules() if id(module) in own]


def _layers(model: nn.Module) -> dict[str, Any]:
    """The adapted layers by name."""
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
