"""The key of a vision tower output: the medium, the processor that read it, and the tower.

- The tower's own weights and settings identify it, so that a base model and a model trained from it with a frozen tower share entries.
- The digest reads weights as fp32 numbers under names relative to the tower: the dtype of an export and a prefix in its file do not matter.
- The digest omits settings that loading and saving change, and settings of the language model.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from components.config.settings import Settings
from components.errors import UserError
from components.families import lora
from components.families.adapters import family_of
from components.families.digests import model_digest, processor_digest
from components.families.opening import meta_model, open_config, whole_weights
from components.files import digest_bytes

FORMAT = "1"  # of entries; a new format makes every older entry a miss
# Top-level settings of a checkpoint outside the vision tower. All others count: one too many is a miss, one too few a wrong hit.
OTHER_SETTINGS = {
    "_attn_implementation",
    "_name_or_path",
    "architectures",
    "dtype",
    "is_local",
    "local_files_only",
    "text_config",
    "tie_word_embeddings",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}


def context_digest(base: Path, settings: Settings, device: torch.device) -> str:
    """Digest of all dependencies of an entry but the medium. It includes the kernels: library version, device, attention, CPU threads."""
    kernels = [device.type, settings.model.attention, torch.__version__]
    if device.type == "cpu":
        kernels += [str(settings.training.threads), torch.backends.cpu.get_cpu_capability()]
    else:
        kernels.append(torch.cuda.get_device_name(device))
    return digest_bytes(FORMAT, vision_digest(base), processor_digest(base), settings.training.precision, settings.features.dtype, *kernels)


def vision_digest(checkpoint: Path) -> str:
    """sha256 over the vision tower's weights and settings in a checkpoint folder; of the whole model if names do not identify its tower.

    Adapters do not change the tower: a folder of adapters has its base's digest. Raises UserError without a checkpoint.
    """
    if lora.is_adapters(checkpoint):
        return vision_digest(lora.base_of(checkpoint))
    if not (checkpoint / "config.json").is_file():
        raise UserError(f"{checkpoint} holds no config.json: set model.base in params.yaml to a checkpoint folder")
    config = open_config(checkpoint)
    with whole_weights():
        model = meta_model(config)
    names, expected = _vision_names(model)
    pattern = re.compile(r"(?:^|\.)((?:" + "|".join(re.escape(name) for name in sorted(names)) + r")(?:\..+)?)$")
    tensors: dict[str, tuple[Path, str]] = {}
    for path in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            tensors |= {match[1]: (path, key) for key in file.keys() if (match := pattern.search(key))}  # noqa: SIM118 -- not a mapping
    state = hashlib.sha256(_vision_settings(config).encode())
    elements = 0
    for name in sorted(tensors):
        path, key = tensors[name]
        with safe_open(path, "pt") as file:
            weight = file.get_tensor(key)
        elements += weight.numel()
        state.update(f"{name}{tuple(weight.shape)}".encode())
        state.update(memoryview(weight.float().contiguous().reshape(-1).numpy()))
    return state.hexdigest() if elements == expected else model_digest(checkpoint)


def _vision_names(model: Any) -> tuple[set[str], int]:
    """Names of the vision tower's modules and parameters without the wrapper's prefix, which some files lack; and its number of elements."""
    owners = {id(owner) for owner in family_of(model.config).modules(model)["tower"]}
    names = {name for name, module in model.named_modules() if id(module) in owners}
    names |= {name for name, parameter in model.named_parameters() if id(parameter) in owners}
    weights: dict[str, torch.Tensor] = model.state_dict()
    elements = sum(weight.numel() for key, weight in weights.items() if any(key == name or key.startswith(f"{name}.") for name in names))
    assert names
    return {name.removeprefix("model.") for name in names}, elements


def _vision_settings(config: Any) -> str:
    values = {key: value for key, value in config.to_dict().items() if key not in OTHER_SETTINGS and not key.endswith("_token_id")}
    values["vision_config"] = {key: value for key, value in values["vision_config"].items() if key not in OTHER_SETTINGS}
    return json.dumps(values, sort_keys=True, default=str)
