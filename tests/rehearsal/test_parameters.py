from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from components.errors import UserError
from components.families.digests import FAMILY_NAMES
from components.rehearsal.architectures import KNOWN
from components.rehearsal.parameters import architecture
from tests.cli.families import real_families
from tests.rehearsal.tiny import CONFIGS

TOWER = {"internvl": "model.vision_tower", "llava_onevision": "model.vision_tower"}
PROJECTOR = ("model.multi_modal_projector", "model.image_newline", "model.visual.merger", "model.visual.deepstack_merger")


def built_parts(family: str, values: dict[str, object]) -> dict[str, int]:
    """Counts by part of the real modules, built without memory."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(CONFIG_MAPPING[family](**copy.deepcopy(values)))
    parts = dict.fromkeys(("tower", "projector", "language_model", "lm_head"), 0)
    for name, parameter in model.named_parameters():
        if name.startswith(PROJECTOR):
            parts["projector"] += parameter.numel()
        elif name.startswith(TOWER.get(family, "model.visual")):
            parts["tower"] += parameter.numel()
        else:
            parts["lm_head" if name.startswith("lm_head") else "language_model"] += parameter.numel()
    return parts


@pytest.mark.parametrize("family", CONFIGS)
def test_every_part_counts_what_the_real_modules_have(family: str) -> None:
    values = CONFIGS[family]
    assert architecture({"model_type": family, **values}).parts == built_parts(family, values)


@pytest.mark.parametrize("family", CONFIGS)
def test_a_config_as_the_library_writes_it_counts_the_same(family: str) -> None:
    written = CONFIG_MAPPING[family](**copy.deepcopy(CONFIGS[family])).to_dict()
    assert architecture(written).parts == architecture({"model_type": family, **CONFIGS[family]}).parts


def test_older_configs_with_the_language_model_at_the_top_are_read() -> None:
    nested = CONFIGS["qwen2_vl"]
    flat = {"model_type": "qwen2_vl", **nested["text_config"], "vision_config": nested["vision_config"]}
    assert architecture(flat).parts == architecture({"model_type": "qwen2_vl", **nested}).parts


@pytest.mark.parametrize("name", KNOWN)
def test_known_checkpoints_have_the_parameters_of_the_real_modules(name: str) -> None:
    values = copy.deepcopy(KNOWN[name])
    family = values.pop("model_type")
    for section, kind in {"llava_onevision": ("qwen2", "siglip_vision_model"), "internvl": ("qwen2", "internvl_vision")}.get(
        family, ()
    ) and zip(
        ("text_config", "vision_config"),
        {"llava_onevision": ("qwen2", "siglip_vision_model"), "internvl": ("qwen2", "internvl_vision")}[family],
        strict=True,
    ):
        values[section] = {"model_type": kind, **values[section]}
    assert architecture(KNOWN[name]).parts == built_parts(family, values)


@pytest.mark.parametrize(("rank", "targets", "linears"), [(8, "attention", 4), (8, "linear", 7)])
def test_adapters_have_rank_times_inputs_and_outputs_of_each_linear_layer(rank: int, targets: str, linears: int) -> None:
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


def test_the_families_are_those_that_the_pipeline_supports() -> None:
    assert set(FAMILY_NAMES) == real_families()


def test_another_family_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UserError, match=r"type 'mllama' are not supported; the families are internvl, llava_onevision"):
        architecture({"model_type": "mllama"})
