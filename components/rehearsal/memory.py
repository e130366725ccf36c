"""Bytes of a stage in a rank, by purpose.

- Weights, gradients and optimizer state follow from the counts of parameters and from ZeRO's split. (DeepSpeed stores an fp32 copy of all
  trained parameters, in fp32 runs too.)
- Activations are autograd's saved tensors of the families' decoder layers, counted operation by operation.
- One constant a device covers the framework: context, workspaces, fragments.

Names: N tokens in a micro-batch, L tokens in a row, R rows, H hidden size, I width inside the MLP, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from components.checkout import Checkout
from components.config.settings import Settings
from components.files import read_json
from components.rehearsal.parameters import Architecture, pair, section

HEAD_CHUNK, CHUNK_LOGITS = 1024, 1 << 25  # target tokens and logits that meet the LM head at once, at most (components.trees.logprobs)
SCORING_ROW_TOKENS, SCORING_ROWS = 512, 16  # components.reward.scoring and components.trees.scoring
PASS_SLOTS, MASK_VALUES = 1 << 15, 1 << 24  # components.trees.scoring and components.generation.continuation
FRAMEWORK_BYTES = {"gpu": 1_500_000_000, "cpu": 1_000_000_000}  # context, workspaces and libraries of a rank
FRAGMENTS = 1.05  # an allocator takes a little more than the tensors need
FP32, BF16 = 4, 2

Device = Literal["gpu", "cpu"]


@dataclass
class Footprint:
    """Bytes of a rank on its device, in the host's memory, and on disk for the whole stage."""

    device: dict[str, int] = field(default_factory=dict)
    host: dict[str, int] = field(default_factory=dict)
    disk: dict[str, int] = field(default_factory=dict)

    @property
    def device_bytes(self) -> int:
        """The peak on the device."""
        return int(sum(self.device.values()) * FRAGMENTS)

    @property
    def host_bytes(self) -> int:
        """A rank's part of the host's memory."""
        return sum(self.host.values())


def value_bytes(settings: Settings) -> int:
    """Bytes of a number in the model's passes."""
    return BF16 if settings.training.precision == "bf16" else FP32


def trained_parameters(model: Architecture, settings: Settings) -> int:
    """Parameters with gradients: the parts whose rate is above 0, or the adapters with the projector.

    A tied head is trained as the embedding.
    """
    rates = settings.training.parts.model_dump()
    if settings.model.lora.rank:
        projector = model.parts["projector"] if rates["projector"] > 0 else 0
        return model.lora(settings.model.lora.rank, settings.model.lora.targets) + projector
    return sum(count for part, count in model.parts.items() if rates[part] > 0)


def training(model: Architecture, settings: Settings, checkout: Checkout, device: Device, *, stage: str, patches: int) -> Footprint:
    """A rank that trains: the reward stage with its score head, or the align stage. `patches` are those of a query's medium."""
    engine, number = settings.training, value_bytes(settings)
    head = (model.hidden + 1) ** 2 if stage == "reward" else 0  # H x H + H, and H + 1
    adapters = model.lora(settings.model.lora.rank, settings.model.lora.targets) if settings.model.lora.rank else 0
    trained = trained_parameters(model, settings) + head
    total = model.total + head + adapters
    footprint = Footprint()
    if engine.engine == "ddp":
        # The weights stay fp32; a bf16 pass copies them as it runs.
        footprint.device["weights"] = total * FP32 + (total * BF16 if number == BF16 else 0)
        footprint.device["gradients"] = trained * FP32 * (2 if engine.ranks > 1 else 1)  # DDP's buckets are copies
        footprint.device["optimiser"] = trained * 2 * FP32
    else:
        _zero(footprint, settings, checkout, total, trained, number)
    footprint.device["activations"] = decoder_activations(model, settings, patches=patches)
    footprint.device["working"] = working(model, settings, trained)
    footprint.device["framework"] = FRAMEWORK_BYTES[device]
    footprint.host["pixels"] = retained_pixels(settings, None)
    masters = trained * 3 * FP32 + total * (number if engine.engine == "deepspeed" else FP32)
    footprint.disk["checkpoints"] = masters * (engine.keep_checkpoints + 1)
    merged = 0 if settings.model.lora.rank and not settings.model.lora.merge else model.total * number
    footprint.disk["model"] = (merged or adapters * number) + head * FP32
    return footprint


def _zero(footprint: Footprint, settings: Settings, checkout: Checkout, total: int, trained: int, number: int) -> None:
    engine = settings.training
    stage, ranks, zero = engine.zero_stage, engine.ranks, _zero_section(checkout, engine.zero_stage)
    bucket = min(int(zero.get("reduce_bucket_size", 500_000_000)), trained)
    weights = total * number // (ranks if stage == 3 else 1)
    gradients = trained * number // (ranks if stage >= 2 else 1)
    masters = trained * 3 * FP32 // ranks  # the fp32 copy and two moments
    device, host = footprint.device, footprint.host
    (host if engine.offload == "all" else device)["weights"] = weights
    device["gradients"] = (0 if engine.offload != "none" else gradients) + bucket * number
    (host if engine.offload != "none" else device)["optimiser"] = masters
    if engine.offload != "none":
        host["gradients"] = gradients
    if stage == 3:
        live = min(total, int(zero.get("stage3_max_live_parameters", 1_000_000_000)))
        device["gathered"] = live * number if ranks > 1 or engine.offload == "all" else 0


def _zero_section(checkout: Checkout, stage: int) -> dict[str, int]:
    path = checkout.deepspeed / f"zero{stage}.json"
    values = read_json(path)["zero_optimization"] if path.is_file() else {}
    return {key: value for key, value in values.items() if isinstance(value, int)}


def rows_of(settings: Settings) -> tuple[int, int]:
    """(rows, tokens a row) of the largest micro-batch. A row has one query at least, and a step splits its queries over the ranks."""
    engine = settings.training
    share = math.ceil(max(settings.reward.queries_per_step, settings.alignment.queries_per_step) / engine.ranks)
    return min(engine.batch_rows, share), max(engine.row_tokens, settings.model.max_length)


def layer_bytes(model: Architecture, settings: Settings) -> int:
    """Bytes that autograd saves of one decoder layer, a token."""
    number = value_bytes(settings)
    hidden, query, key_value = model.hidden, model.heads * model.head_dim, model.key_value_heads * model.head_dim
    # RMSNorm computes in fp32: autograd saves its input, the normalized values, and its result for the next linear maps.
    norms = 2 * hidden * (3 * FP32 if number == FP32 else FP32 + 2 * BF16)
    if model.family == "qwen3_vl":
        norms += (query + key_value) * (2 * FP32 if number == FP32 else FP32 + BF16)
    # Keys and values are repeated for grouped queries ahead of sdpa; flex attention reads them as they are.
    repeated = key_value if settings.model.attention == "flex_attention" or model.heads == model.key_value_heads else query
    attention = (2 * query + 2 * repeated) * number + model.heads * FP32
    return norms + attention + 4 * model.intermediate * number


def products_bytes(model: Architecture, settings: Settings) -> int:
    """Bytes of a decoder layer's input and of what its matrix products and its attention give, a token."""
    query, key_value = model.heads * model.head_dim, model.key_value_heads * model.head_dim
    attention = 2 * query + 2 * key_value  # queries, keys, values, and what attention gives
    return (3 * model.hidden + attention + 2 * model.intermediate) * value_bytes(settings) + model.heads * FP32


def decoder_activations(model: Architecture, settings: Settings, *, patches: int) -> int:
    """Bytes saved between forward and backward, with the attention mask, and the vision tower's where it runs inside the step."""
    number = value_bytes(settings)
    rows, length = rows_of(settings)
    tokens, one = rows * length, layer_bytes(model, settings)
    layer_by_mode = {"none": one, "selective": products_bytes(model, settings), "all": model.hidden * number}
    mode = settings.training.gradient_checkpointing
    saved = tokens * model.layers * layer_by_mode[mode] + (tokens * one if mode != "none" else 0)  # one layer is computed again at a time
    mask = 0 if settings.model.attention == "flex_attention" else rows * length**2 * number
    return saved + mask + vision_activations(model, settings, rows * patches)


def vision_activations(model: Architecture, settings: Settings, patches: int) -> int:
    """Bytes of the vision tower inside a training step: the cached features, one layer of a frozen tower, or all its layers."""
    trained = settings.training.parts.tower > 0 and not settings.model.lora.rank
    if settings.features.cache and not trained:
        return sum(model.feature_widths) * patches * value_bytes(settings)
    one = patches * (8 * model.vision_width + 2 * model.vision_intermediate) * value_bytes(settings)
    return one * (model.vision_layers if trained else 1)


def working(model: Architecture, settings: Settings, trained: int) -> int:
    """Bytes of temporary tensors: at the LM head, in a layer's backward, or while the optimizer steps."""
    rows, length = rows_of(settings)
    passing = rows * length * (3 * model.intermediate + 4 * model.hidden) * value_bytes(settings)
    engine = settings.training
    split = engine.ranks if engine.engine == "deepspeed" else 1
    stepping = 0 if engine.offload != "none" else trained * FP32 // split  # the gradient in fp32
    return max(head_activations(model, settings), passing, stepping)


def chunk_tokens(vocabulary: int) -> int:
    """Target tokens that pass the LM head at once (components.trees.logprobs.chunk_tokens)."""
    return min(HEAD_CHUNK, max(64, 1 << ((CHUNK_LOGITS // vocabulary).bit_length() - 1)))


def head_activations(model: Architecture, settings: Settings) -> int:
    """Bytes of one chunk of target tokens at the LM head in backward, and of the head's gradient before its accumulation."""
    number, engine = value_bytes(settings), settings.training
    rows, length = rows_of(settings)
    chunk = min(chunk_tokens(model.vocabulary), rows * length)
    # Where the head can only be called (gathered by ZeRO-3, or cast as it runs), autograd saves the chunk's logits in several forms.
    called = (engine.engine == "deepspeed" and engine.zero_stage == 3) or (engine.engine == "ddp" and number == BF16)
    forms = (4 if called else 2) * FP32 + (2 * BF16 if number == BF16 else 0)
    rates = engine.parts
    head_trained = not settings.model.lora.rank and (rates.language_model if model.tied else rates.lm_head) > 0
    return chunk * model.vocabulary * forms + (model.vocabulary * model.hidden * number if head_trained else 0)


def inference(model: Architecture, settings: Settings, device: Device, stage: str) -> Footprint:
    """A rank of a stage without training: critique (unless without critiques) and evaluate generate, reference and evaluate compute log-probs."""
    number = value_bytes(settings)
    spread = {"critique": settings.critique, "reference": settings.reference, "evaluate": settings.evaluate}[stage]
    footprint = Footprint()
    whole = model.total * number
    if spread.zero_inference and spread.ranks > 1:
        footprint.device["weights"] = whole // spread.ranks
        footprint.device["gathered"] = (
            max(model.vocabulary * model.hidden, model.decoder_layer) * number
        )  # a module when it is run, none ahead
    else:
        footprint.device["weights"] = whole
    passes = [_scoring(model, settings, settings.training.row_tokens, SCORING_ROWS)]
    if stage == "critique":
        passes = [_scoring(model, settings, SCORING_ROW_TOKENS, SCORING_ROWS)]
        if settings.reward.critique_source != "none":
            passes.append(_generation(model, settings, settings.critique))
    if stage == "evaluate":
        passes.append(_generation(model, settings, settings.evaluate))
    largest: dict[str, int] = max(passes, key=_together)
    footprint.device |= largest
    footprint.device["framework"] = FRAMEWORK_BYTES[device]
    footprint.host["pixels"] = retained_pixels(settings, None)
    return footprint


def _together(used: dict[str, int]) -> int:
    return sum(used.values())


def _scoring(model: Architecture, settings: Settings, row_tokens: int, rows: int) -> dict[str, int]:
    number, longest = value_bytes(settings), settings.model.max_length
    rows = max(1, min(rows, PASS_SLOTS // row_tokens))
    shapes = [(rows, row_tokens)]
    if longest > row_tokens:  # such a query has a row of its own, and the batch no more slots than that of others
        shapes.append((max(1, rows * row_tokens // longest), longest))
    slots = max(count * length for count, length in shapes)
    mask = 0 if settings.model.attention == "flex_attention" else max(count * length**2 for count, length in shapes) * number
    logits = min(chunk_tokens(model.vocabulary), slots) * model.vocabulary * (number + 2 * FP32)
    return {"activations": slots * _passing(model) * number + mask, "working": logits}


def _generation(model: Architecture, settings: Settings, stage: object) -> dict[str, int]:
    from components.config.critique import CritiqueSettings
    from components.config.evaluate import EvaluateSettings

    assert isinstance(stage, CritiqueSettings | EvaluateSettings)
    number, prompt = value_bytes(settings), settings.model.max_length
    cache = stage.batch_size * (prompt + stage.max_new_tokens) * model.layers * 2 * model.key_value_heads * model.head_dim * number
    roots = max(1, min(stage.batch_size, PASS_SLOTS // prompt, MASK_VALUES // prompt**2))
    slots = roots * prompt
    if isinstance(stage, CritiqueSettings):  # responses follow the roots in passes of their own
        slots = max(slots, min(PASS_SLOTS, stage.batch_size * prompt))
    mask = roots * prompt**2 * (number + 1)  # and the boolean one that it is made of
    return {"key-value cache": cache, "activations": slots * _passing(model) * number + mask}


def _passing(model: Architecture) -> int:
    """Values a token that are alive at once in a forward pass without autograd."""
    return 3 * model.intermediate + 4 * model.hidden + 4 * model.heads * model.head_dim


def pixel_bytes(model: Architecture, patches: int) -> int:
    """Bytes of a medium's preprocessed pixels: fp32, and frames in pairs where the vision tower takes them so."""
    vision = section(model.config, "vision")
    height, width = pair(vision["patch_size"])
    channels, frames = int(vision.get("in_channels", vision.get("num_channels", 3))), int(vision.get("temporal_patch_size", 1))
    return patches * height * width * channels * frames * FP32


def retained_pixels(settings: Settings, pixels: int | None) -> int:
    """Bytes of preprocessed pixels that a rank retains: all media's, at most `features.pixels_max_gb`. None: how many there are is unknown."""
    limit = int(settings.features.pixels_max_gb * 1e9)
    return limit if pixels is None else min(limit, pixels)


def feature_bytes(model: Architecture, settings: Settings, cached_patches: int) -> int:
    """Bytes of a medium in the feature cache."""
    return cached_patches * sum(model.feature_widths) * (BF16 if settings.features.dtype == "bf16" else FP32)
