from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from components.errors import UserError
from components.families.digests import FAMILY_NAMES
from components.rehearsal.architectures import PUBLISHED
from components.rehearsal.parameters import architecture
from tests.cli.families import real_families
from tests.rehearsal.tiny import CONFIGS

VISION = {"internvl": "model.vision_tower", "llava_onevision": "model.vision_tower"}
PROJECTOR = ("model.multi_modal_projector", "model.image_newline", "model.visual.merger", "model.visual.deepstack_merger")


def built_parts(family: str, values: dict[str, object]) -> dict[str, int]:
    """Counts by part of the real modules, built without memory."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(CONFIG_MAPPING[family](**copy.deepcopy(values)))
    parts = dict.fromkeys(("tower", "projector", "language_model", "lm_head"), 0)
    for name, parameter in model.named_parameters():
        if name.startswith(PROJECTOR):
            parts["projector"] += parameter.numel()
        elif name.startswith(VISION.get(family, "model.visual")):
            parts["tower"] += parameter.numel()
        else:
            parts["lm_head" if name.startswith("lm_head") else "language_model"] += parameter.numel()
    return parts


@pytest.mark.parametrize("family", CONFIGS)
def test_parts_count_parameters_of_real_modules(family: str) -> None:
    values = CONFIGS[family]
    assert architecture({"model_type": family, **values}).parts == built_parts(family, values)


@pytest.mark.parametrize("family", CONFIGS)
def test_config_from_library_counts_same(family: str) -> None:
    written = CONFIG_MAPPING[family](**copy.deepcopy(CONFIGS[family])).to_dict()
    assert architecture(written).parts == architecture({"model_type": family, **CONFIGS[family]}).parts


def test_older_flat_configs_are_read() -> None:
    nested = CONFIGS["qwen2_vl"]
    flat = {"model_type": "qwen2_vl", **nested["text_config"], "vision_config": nested["vision_config"]}
    assert architecture(flat).parts == architecture({"model_type": "qwen2_vl", **nested}).parts


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_checkpoints_count_real_parameters(name: str) -> None:
    values = copy.deepcopy(PUBLISHED[name])
    family = values.pop("model_type")
    for section, kind in {"llava_onevision": ("qwen2", "siglip_vision_model"), "internvl": ("qwen2", "internvl_vision")}.get(
        family, ()
    ) and zip(
        ("text_config", "vision_config"),
        {"llava_onevision": ("qwen2", "siglip_vision_model"), "internvl": ("qwen2", "internvl_vision")}[family],
        strict=True,
    ):
        values[section] = {"model_type": kind, **values[section]}
    assert architecture(PUBLISHED[name]).parts == built_parts(family, values)


@pytest.mark.parametrize(("rank", "targets", "linears"), [(8, "attention", 4), (8, "linear", 7)])
def test_adapter_parameters_follow_rank_and_layer_sizes(rank: int, targets: str, linears: int) -> None:
    family = "llava_onevision"
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(CONFIG_MAPPING[family](**copy.deepcopy(CONFIGS[family])))
    layers = [m for m in model.model.language_model.layers.modules() if isinstance(m, torch.nn.Linear)]
    names = [n for n, m in model.model.language_model.layers[0].named_modules() if isinstance(m, torch.nn.Linear)]
    chosen = [
        m
        for n, m in model.model.language_model.layers.named_modules()
        if isinstance(m, torch.nn.Linear) and ("self_attn" in n or targets == "linear")
    ]
    assert len(chosen) == linears * 3 <= len(layers)
    assert len(names) == 7
    expected = sum(rank * (m.in_features + m.out_features) for m in chosen)
    assert architecture({"model_type": family, **CONFIGS[family]}).lora(rank, targets) == expected


def test_families_equal_supported_ones() -> None:
    assert set(FAMILY_NAMES) == real_families()


def test_unknown_family_lists_supported_ones() -> None:
    with pytest.raises(UserError, match=r"type 'mllama' are not supported; the families are internvl, llava_onevision"):
        architecture({"model_type": "mllama"})
