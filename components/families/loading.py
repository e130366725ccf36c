"""Opening checkpoints and saving them.

- Only safetensors are read; nothing is fetched; no code of a checkpoint is run.
- Exports carry the base's own processor, tokenizer and template files byte for byte: a load and a save would change them.
- A folder of adapters opens as its base with them merged.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

from components.errors import UserError
from components.families import lora
from components.families.adapters import family_of
from components.families.digests import PROCESSOR_FILES

if TYPE_CHECKING:
    from components.config.model import ModelSettings
    from components.config.training import TrainingSettings


def load_model(path: Path, *, attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> Any:
    """Open a checkpoint folder in evaluation mode.

    Raises UserError when it is missing, of a family that is not supported, or holds adapters whose base is not what they were trained on.
    """
    if lora.is_adapters(path):
        model = load_model(lora.base_of(path), attention=attention, dtype=dtype)
        lora.merge_folder(model, path)
        return model
    if not (path / "config.json").is_file():
        raise UserError(f"{path} holds no config.json: set model.base in params.yaml to a checkpoint folder")
    model = AutoModelForImageTextToText.from_pretrained(
        path, local_files_only=True, use_safetensors=True, dtype=dtype, attn_implementation=attention
    )
    family_of(model.config)
    if any("ds_id" in vars(parameter) for parameter in model.parameters()):
        # transformers keeps the renamings of names that the checkpoint needed, to write its names again; under ZeRO-3 it keeps all there are.
        kept = vars(model).get("_weight_conversions", [])
        model._weight_conversions = [renaming for renaming in kept if renaming.was_used()]  # noqa: SLF001
    return model.eval()


def load_trainable(path: Path, model: ModelSettings, training: TrainingSettings) -> Any:
    """Open a checkpoint folder for training, on the rank's GPU where there is one: parts whose learning rate is 0 are frozen.

    With DeepSpeed and bf16 the weights are bf16, and the engine holds fp32 ones beside them; DDP trains fp32 weights under autocast. With
    `model.lora` the language model's adapters are trained in its place, and the projector. Raises UserError for settings that do not fit.
    """
    in_bf16 = training.precision == "bf16" and training.engine == "deepspeed"
    opened = load_model(path, attention=model.attention, dtype=torch.bfloat16 if in_bf16 else torch.float32)
    if torch.cuda.is_available():
        opened.to("cuda")
    if model.lora.rank:
        _train_adapters(opened, model, training)
    else:
        _train_parts(opened, training)
    if training.gradient_checkpointing:
        # ZeRO-3 has weights as empty tensors before backward and whole in it, which a comparison of the two passes would take for a fault.
        opened.gradient_checkpointing_enable({"use_reentrant": False, "determinism_check": "none"})
    return opened


def save_model(model: Any, folder: Path, base: Path, state: dict[str, Tensor] | None = None) -> None:
    """Write `model` (or `state` in its place) as safetensors with the processor files of `base`. Equal weights give equal bytes."""
    model.save_pretrained(folder, state_dict=state)
    _copy_processor(base, folder)


def save_trained(model: Any, folder: Path, base: Path) -> None:
    """Write what `load_trainable` opened and training changed, with the processor files of `base`.

    With adapters that is a whole model with them merged, or by `model.lora.merge` a folder of adapters that `load_model` opens on its base.
    """
    adapters = lora.settings_of(model)
    if adapters is None:
        save_model(model, folder, base)
    elif adapters.merge:
        save_model(model, folder, base, lora.merged_state(model))
    else:
        lora.save_adapters(model, folder, base)
        _copy_processor(base, folder)
        shutil.copyfile(base / "config.json", folder / "config.json")  # tells a processor's reader the family


def _train_parts(model: Any, training: TrainingSettings) -> None:
    rates = training.parts.model_dump()
    if not any(rates.values()):
        raise UserError("training.parts sets every part's rate to 0, so nothing would be trained: raise one")
    met: dict[nn.Parameter, str] = {}
    for part, members in family_of(model.config).modules(model).items():
        for member in members:
            for parameter in [member] if isinstance(member, nn.Parameter) else member.parameters():
                first = met.setdefault(parameter, part)
                if rates[first] != rates[part]:
                    raise UserError(
                        f"training.parts gives {first} the rate {rates[first]} and {part} {rates[part]}, but this model ties their weights: "
                        "set both to one rate"
                    )
                parameter.requires_grad_(rates[part] > 0)


def _train_adapters(model: Any, settings: ModelSettings, training: TrainingSettings) -> None:
    rates = training.parts
    if rates.tower > 0:
        raise UserError(
            "model.lora trains adapters and the projector, not the tower: set training.parts.tower to 0, or model.lora.rank to 0"
        )
    if rates.language_model == 0:
        raise UserError(
            "model.lora puts adapters on the language model, but training.parts.language_model is 0: raise it, or set model.lora.rank to 0"
        )
    lora.add_adapters(model, settings.lora, training.seed)
    for member in family_of(model.config).modules(model)["projector"]:
        member.requires_grad_(rates.projector > 0)


def _copy_processor(base: Path, folder: Path) -> None:
    for name in PROCESSOR_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
