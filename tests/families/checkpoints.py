"""Builds the checkpoints of the conformance suite: a random one of every family, with a processor that plain transformers opens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.tiny import save_checkpoint

QWEN_MARKS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
INTERNVL_MARKS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
# Written after the families' own: a default system prompt where there is none, contents as text or as a list of parts.
SYSTEM = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
TEMPLATE = (
    "{{% for message in messages %}}<|im_start|>{{{{ message['role'] }}}}\n"
    "{{% if message['content'] is string %}}{{{{ message['content'] }}}}{{% else %}}{{% for part in message['content'] %}}"
    "{{% if part['type'] == 'image' or 'image' in part %}}{image}{{% elif part['type'] == 'video' or 'video' in part %}}{video}"
    "{{% elif 'text' in part %}}{{{{ part['text'] }}}}{{% endif %}}{{% endfor %}}{{% endif %}}<|im_end|>\n{{% endfor %}}"
    "{{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}"
)
QWEN_TEMPLATE = SYSTEM + TEMPLATE.format(
    image="<|vision_start|><|image_pad|><|vision_end|>", video="<|vision_start|><|video_pad|><|vision_end|>"
)
QWEN3_TEMPLATE = QWEN_TEMPLATE.removeprefix(SYSTEM)
INTERNVL_TEMPLATE = TEMPLATE.format(image="<IMG_CONTEXT>\n", video="<video>\n")

PIXELS = {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}  # of one image; Qwen3-VL counts a whole video
LANGUAGE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": None,
}


def bytes_tokenizer(special: Sequence[str], **named: Any) -> PreTrainedTokenizerFast:
    """A tokenizer of single bytes with the turn marks and a family's own."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: number for number, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *special]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", **named)


def _text_config(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {**LANGUAGE, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}


def _ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    start, end, image, video = tokenizer.convert_tokens_to_ids(QWEN_MARKS)
    return {"image_token_id": image, "video_token_id": video, "vision_start_token_id": start, "vision_end_token_id": end}


def save_llava_onevision(folder: Path) -> Path:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    save_checkpoint(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True)
    return _save(folder, model, AutoProcessor.from_pretrained(folder, local_files_only=True))


def _save(folder: Path, model: Any, processor: Any) -> Path:
    # Random weights of the usual size make every token alike: larger ones let positions and media show in the logits.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "embed" not in name:
                parameter.mul_(4)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_qwen2_vl(folder: Path) -> Path:
    from transformers import (
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )

    tokenizer = bytes_tokenizer(QWEN_MARKS)
    patches = {"patch_size": 8, "temporal_patch_size": 2, "merge_size": 2, "size": PIXELS}
    processor = Qwen2VLProcessor(Qwen2VLImageProcessor(**patches), tokenizer, Qwen2VLVideoProcessor(**patches), chat_template=QWEN_TEMPLATE)
    config = Qwen2VLConfig(
        text_config={
            **_text_config(tokenizer),
            "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [1, 1, 2]},
        },
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 32,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        tie_word_embeddings=True,
        **_ids(tokenizer),
    )
    torch.manual_seed(0)
    return _save(folder, Qwen2VLForConditionalGeneration(config), processor)


def save_qwen2_5_vl(folder: Path) -> Path:
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    tokenizer = bytes_tokenizer(QWEN_MARKS)
    patches = {"patch_size": 8, "temporal_patch_size": 2, "merge_size": 2, "size": PIXELS}
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(**patches), tokenizer, Qwen2VLVideoProcessor(**patches), chat_template=QWEN_TEMPLATE
    )
    config = Qwen2_5_VLConfig(
        text_config={
            **_text_config(tokenizer),
            "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [1, 1, 2]},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "out_hidden_size": 32,
            "num_heads": 2,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 32,
            "fullatt_block_indexes": [1],
        },
        tie_word_embeddings=False,
        **_ids(tokenizer),
    )
    torch.manual_seed(0)
    return _save(folder, Qwen2_5_VLForConditionalGeneration(config), processor)


def save_qwen3_vl(folder: Path) -> Path:
    from transformers import (
        Qwen2VLImageProcessor,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    tokenizer = bytes_tokenizer(QWEN_MARKS)
    patches = {"patch_size": 8, "temporal_patch_size": 2, "merge_size": 2}
    processor = Qwen3VLProcessor(
        Qwen2VLImageProcessor(**patches, size=PIXELS),
        tokenizer,
        Qwen3VLVideoProcessor(**patches, size={"shortest_edge": 2 * 16 * 16, "longest_edge": 4 * 64 * 64}),
        chat_template=QWEN3_TEMPLATE,
    )
    config = Qwen3VLConfig(
        text_config={
            **_text_config(tokenizer),
            "head_dim": 8,
            "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [2, 1, 1], "mrope_interleaved": True},
        },
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 64,
            "out_hidden_size": 32,
            "num_heads": 2,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
        },
        tie_word_embeddings=False,
        **_ids(tokenizer),
    )
    torch.manual_seed(0)
    return _save(folder, Qwen3VLForConditionalGeneration(config), processor)


def save_internvl(folder: Path) -> Path:
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
    )

    tokenizer = bytes_tokenizer(list(INTERNVL_MARKS.values()), extra_special_tokens=INTERNVL_MARKS)
    size = {"height": 32, "width": 32}
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(size=size, crop_to_patches=True, min_patches=1, max_patches=4),
        tokenizer,
        InternVLVideoProcessor(size=size),
        image_seq_length=4,
        chat_template=INTERNVL_TEMPLATE,
    )
    config = InternVLConfig(
        text_config={**_text_config(tokenizer), "model_type": "qwen2"},
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": [32, 32],
            "patch_size": [8, 8],
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    return _save(folder, InternVLForConditionalGeneration(config), processor)


BUILDERS: dict[str, Callable[[Path], Path]] = {
    "internvl": save_internvl,
    "llava_onevision": save_llava_onevision,
    "qwen2_5_vl": save_qwen2_5_vl,
    "qwen2_vl": save_qwen2_vl,
    "qwen3_vl": save_qwen3_vl,
}
