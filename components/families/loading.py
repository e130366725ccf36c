"""Opens and saves checkpoints.

- `load_model` reads only local safetensors and runs no code of a checkpoint.
- An export copies the base's processor, tokenizer and template files byte for byte: loading and saving would change them.
- A folder of adapters opens as its base with the adapters merged.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from components.errors import UserError
from components.families import lora
from components.families.adapters import family_of
from components.families.digests import PROCESSOR_FILES
from components.families.kernels import use_liger
from components.families.opening import open_weights
from components.families.recomputation import set_recomputation

if TYPE_CHECKING:
    from components.config.model import ModelSettings
    from components.config.training import TrainingSettings

GENERATION_FILE = "generation_config.json"


def load_model(path: Path, *, attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> Any:
    """Open a checkpoint folder in evaluation mode.

    Raises UserError for a missing or damaged checkpoint, an unsupported family, and adapters whose base is missing or has changed.
    """
    if lora.is_adapters(path):
        model = load_model(lora.base_of(path), attention=attention, dtype=dtype)
        lora.merge_folder(model, path)
        return model
    if not (path / "config.json").is_file():
        raise UserError(f"{path} holds no config.json: set model.base in params.yaml to a checkpoint folder")
    model = open_weights(path, dtype)
    set_attention(model, attention)
    if any("ds_id" in vars(parameter) for parameter in model.parameters()):
        # transformers retains the renamings that the checkpoint needed, to restore its names on export; under ZeRO-3 it retains all.
        renamings = vars(model).get("_weight_conversions", [])
        model._weight_conversions = [renaming for renaming in renamings if renaming.was_used()]  # noqa: SLF001
    return model.eval()


def set_attention(model: Any, attention: str) -> None:
    """Let the language model attend by `attention`: `sdpa` or `flex_attention`.

    Call it after loading: transformers refuses flex attention at loading for Qwen2-VL, Qwen2.5-VL and Qwen3-VL, though their layers run it,
    and would give it to the vision tower too. The tower reads no trees and keeps sdpa, so its features have the same bits at any time.
    """
    model.config.text_config._attn_implementation = attention  # noqa: SLF001 -- transformers has no public name for one part's choice


def load_trainable(path: Path, model: ModelSettings, training: TrainingSettings) -> Any:
    """Open a checkpoint folder for training, on the rank's GPU where there is one: parts whose learning rate is 0 are frozen.

    With DeepSpeed and bf16 the weights are bf16, and the engine adds fp32 master weights; DDP trains fp32 weights under autocast. With
    `model.lora`, training changes the language model's adapters and the projector. Raises UserError for settings that contradict each other.
    """
    in_bf16 = training.precision == "bf16" and training.engine == "deepspeed"
    opened = load_model(path, attention=model.attention, dtype=torch.bfloat16 if in_bf16 else torch.float32)
    if torch.cuda.is_available():
        opened.to("cuda")
    if model.lora.rank:
        _train_adapters(opened, model, training)
    else:
        _train_parts(opened, training)
    if training.kernels == "liger":
        use_liger(opened)
    set_recomputation(opened, training.gradient_checkpointing)
    return opened


def save_model(model: Any, folder: Path, base: Path, state: dict[str, Tensor] | None = None) -> None:
    """Write `model` (or `state` in its place) as safetensors with the processor files of `base`. Equal weights give equal bytes.

    transformers refuses to write generation settings that contradict each other, and reads them: such a base's file is copied as it is.
    """
    generation = model.generation_config
    try:
        generation.validate(strict=True)
    except ValueError:
        model.generation_config = GenerationConfig()
    try:
        model.save_pretrained(folder, state_dict=state)
    finally:
        replaced, model.generation_config = model.generation_config is not generation, generation
    if replaced:
        shutil.copyfile(base / GENERATION_FILE, folder / GENERATION_FILE)
    _copy_processor(base, folder)


def save_trained(model: Any, folder: Path, base: Path) -> None:
    """Write a trained model that `load_trainable` opened, with the processor files of `base`.

    With adapters, `model.lora.merge` true writes a whole merged model, and false a folder of adapters that `load_model` opens on its base.
    """
    adapters = lora.settings_of(model)
    if adapters is None:
        save_model(model, folder, base)
    elif adapters.merge:
        save_model(model, folder, base, lora.merged_state(model))
    else:
        lora.save_adapters(model, folder, base)
        _copy_processor(base, folder)


def _train_parts(model: Any, training: TrainingSettings) -> None:
    rates = training.parts.model_dump()
    if not any(rates.values()):
        raise UserError("training.parts sets every part's rate to 0, so training would change nothing: raise one")
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
