"""How fast this machine trains: measured with a random model before a run, and by every training itself, in .mmalign/machine/rates.json for the plan.

- A training's own rate is of its stage, with all that the random model leaves out: it takes precedence for that stage.
- The model has the current architecture with as many layers of the language model as fit; its operations a second are extrapolated to the
  whole model. The vision tower has one layer and does not run: media come from the feature cache.
- The key of a rate is device, architecture and the settings that determine it, so a changed setting needs a new measurement.
"""

from __future__ import annotations

import copy
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from components.checkout import Checkout
from components.config.settings import Settings
from components.errors import UserError
from components.files import digest_bytes, read_json, write_json
from components.rehearsal.devices import Machine, gpu, processor
from components.rehearsal.memory import head_activations, layer_bytes, rows_of, value_bytes
from components.rehearsal.parameters import Architecture, architecture, section

NO_RATE = "no rate measured: mmalign bench rate"  # or a run with these settings
WARM_UP, STEPS = 1, 3
BRANCHES, BRANCH_SHARE = 4, 0.25  # of the measured trees: responses, and their share of the tokens
MEMORY_SHARE = 0.6  # of the device's memory for the cut model


@dataclass(frozen=True)
class Rate:
    """A measured rate of one rank."""

    device: str
    tokens_per_second: float
    flops_per_second: float
    layers: int  # of the measured language model
    of_layers: int
    rows: int
    row_tokens: int
    measured: str  # the day


def rate_key(settings: Settings, model: Architecture, device: str) -> str:
    """The key of a rate: device, architecture and the settings that determine it."""
    engine = settings.training
    decisive: list[Any] = [
        settings.model.attention,
        settings.model.lora.model_dump(mode="json"),
        engine.precision,
        engine.gradient_checkpointing,
        engine.kernels,
        engine.deterministic,
    ]
    decisive += [engine.parts.model_dump(mode="json"), engine.threads, *rows_of(settings)]
    sizes = [model.family, model.parts, model.hidden, model.layers]
    return digest_bytes(device, json.dumps(sizes, sort_keys=True), json.dumps(decisive, sort_keys=True))


def find_rate(checkout: Checkout, settings: Settings, model: Architecture, machine: Machine | None, stage: str = "") -> Rate | None:
    """The measured rate for these settings on this device: the stage's own where it was trained here, else the random model's, or None."""
    path = checkout.rates
    if machine is None or not path.is_file():
        return None
    stored, key = read_json(path), rate_key(settings, model, machine.name)
    values = stored.get(f"{key}:{stage}") or stored.get(key)
    return None if values is None else Rate(**values)


def store_rate(checkout: Checkout, settings: Settings, model: Architecture, rate: Rate, stage: str = "") -> None:
    """Add a rate to the stored ones; with `stage`, as that training's own."""
    path = checkout.rates
    stored = read_json(path) if path.is_file() else {}
    key = rate_key(settings, model, rate.device)
    write_json(path, {**stored, f"{key}:{stage}" if stage else key: asdict(rate)})


def store_training_rate(checkout: Checkout, settings: Settings, stage: str, tokens_per_second: float) -> None:
    """Store what a training on this machine measured: `tokens_per_second` of all ranks together, without padding.

    A model that no plan can be made for has no rate either: its training has ended well all the same.
    """
    from components.rehearsal.architectures import find_architecture
    from components.rehearsal.devices import planned_machine

    machine = planned_machine(settings, None)
    try:
        model, _ = find_architecture(settings, checkout)
    except UserError:
        return
    if machine is None:
        return
    rows, length = rows_of(settings)
    a_rank = tokens_per_second / settings.training.ranks
    flops = a_rank * _step_flops(model, model.layers, settings)
    rate = Rate(machine.name, a_rank, flops, model.layers, model.layers, rows, length, time.strftime("%Y-%m-%d"))
    store_rate(checkout, settings, model, rate, stage)


def measure(settings: Settings, model: Architecture, log: Callable[[str], None]) -> Rate:
    """Train a random model for a few steps on this machine's first GPU, or on its processor. Raises UserError where no layer fits."""
    import torch

    from components.trees.logprobs import TreeModel

    machine = (gpu() if torch.cuda.is_available() else None) or processor()
    torch.set_num_threads(settings.training.threads)
    device = torch.device("cuda" if machine.kind == "gpu" else "cpu")
    dtype = torch.bfloat16 if settings.training.precision == "bf16" else torch.float32
    rows, length = rows_of(settings)
    layers = fitting_layers(settings, model, machine.memory, rows * length)
    log(f"{machine.name}: {layers} of {model.layers} layers, {rows} rows of {length} tokens, {settings.training.precision}")
    tree_model = TreeModel(random_model(settings, model, layers, dtype).to(device)).train()
    trained = [parameter for parameter in tree_model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6)
    batch = random_trees(settings, model, device)
    seconds = []
    for step in range(WARM_UP + STEPS):
        began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        tree_model(batch).sum().neg().backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if step >= WARM_UP:
            seconds.append(time.perf_counter() - began)
    measured = rows * length / statistics.median(seconds)
    share = _step_flops(model, layers, settings) / _step_flops(model, model.layers, settings)
    whole = measured * share
    return Rate(
        machine.name,
        whole,
        whole * _step_flops(model, model.layers, settings),
        layers,
        model.layers,
        rows,
        length,
        time.strftime("%Y-%m-%d"),
    )


def random_trees(settings: Settings, model: Architecture, device: Any) -> Any:
    """A micro-batch of the largest size: a tree of random tokens in every row."""
    import torch

    from components.families.adapters import Root
    from components.trees.trees import Branch, Tree, build_batch

    rows, length = rows_of(settings)
    branch = max(1, int(length * BRANCH_SHARE / BRANCHES))
    root = length - BRANCHES * branch
    tokens = torch.randint(10, model.vocabulary // 2, (rows, length), generator=torch.Generator().manual_seed(0)).tolist()
    trees = []
    for row in tokens:
        cuts = [tuple(row[start : start + branch]) for start in range(root, length, branch)]
        trees.append(Tree(Root(tuple(row[:root])), tuple(Branch(cut) for cut in cuts)))
    return build_batch(trees, length, device, 0)


def fitting_layers(settings: Settings, model: Architecture, memory_bytes: int, tokens: int) -> int:
    """How many layers of the language model can be trained unsplit in this memory. Raises UserError where none can."""
    number = value_bytes(settings)
    state = 4 * number  # weights, gradients and two moments, all of one kind
    fixed = model.vocabulary * model.hidden * (1 if model.tied else 2) * state + head_activations(model, settings)
    fixed += tokens * (3 * model.intermediate + 4 * model.hidden) * number
    one = model.decoder_layer * state + tokens * layer_bytes(model, settings)
    layers = int((memory_bytes * MEMORY_SHARE - fixed) // one)
    if layers < 1:
        raise UserError(
            f"not one layer of this model can be trained in {memory_bytes / 1e9:.1f} GB: measure with smaller rows "
            "(--set training.row_tokens=..., --set model.max_length=..., --set training.batch_rows=1) or on the training machine"
        )
    return min(layers, model.layers)


def cut_config(model: Architecture, layers: int) -> dict[str, Any]:
    """The model's configuration with `layers` layers in the language model and one in the vision tower."""
    config = copy.deepcopy(dict(model.config))
    text, vision = section(config, "text"), section(config, "vision")
    nested = {"text_config": {**text, "num_hidden_layers": layers}, "vision_config": dict(vision)}
    nested["text_config"].pop("layer_types", None)
    for key in ("depth", "num_hidden_layers"):
        if key in nested["vision_config"]:
            nested["vision_config"][key] = 1
    if "deepstack_visual_indexes" in nested["vision_config"]:
        nested["vision_config"]["deepstack_visual_indexes"] = [0]
    if "fullatt_block_indexes" in nested["vision_config"]:
        nested["vision_config"]["fullatt_block_indexes"] = [0]
    kinds = {"llava_onevision": ("qwen2", "siglip_vision_model"), "internvl": ("qwen2", "internvl_vision")}
    if model.family in kinds:
        for name, kind in zip(("text_config", "vision_config"), kinds[model.family], strict=True):
            nested[name].setdefault("model_type", kind)
    outer = {key: value for key, value in config.items() if key not in {"text_config", "vision_config"} and key not in text}
    return {**outer, "model_type": model.family, **nested, "tie_word_embeddings": model.tied}


def _step_flops(model: Architecture, layers: int, settings: Settings) -> float:
    """Operations a token of a step over `layers` layers. Only the responses pass the head."""
    recomputed = 1 if settings.training.gradient_checkpointing == "all" else 0
    decoder = layers * model.decoder_layer * (6.0 + 2.0 * recomputed)
    scores = layers * 12.0 * rows_of(settings)[1] / 2 * model.heads * model.head_dim
    return decoder + scores + 8.0 * model.hidden * model.vocabulary * BRANCH_SHARE


def random_model(settings: Settings, model: Architecture, layers: int, dtype: Any) -> Any:
    """A model with random weights and `layers` layers in its language model. Only the language model and its head are trained."""
    import torch
    from transformers import AutoModelForImageTextToText
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from components.families.loading import set_attention
    from components.families.recomputation import set_recomputation

    values = cut_config(model, layers)
    assert architecture(values).layers == layers
    config = CONFIG_MAPPING[values.pop("model_type")](**values)
    torch.manual_seed(0)
    built = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="sdpa", trust_remote_code=False)
    set_attention(built, settings.model.attention)
    rates = settings.training.parts
    for name, parameter in built.named_parameters():
        in_language = name.startswith(("model.language_model", "lm_head"))
        parameter.requires_grad_(in_language and (rates.lm_head if name.startswith("lm_head") else rates.language_model) > 0)
    set_recomputation(built, settings.training.gradient_checkpointing)
    return built
