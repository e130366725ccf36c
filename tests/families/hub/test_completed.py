"""A processor that plain transformers opens is the same with the files that a fetch adds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import AutoProcessor, PreTrainedTokenizerFast

from components.families.hub.files import complete

MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]


def opened(folder: Path) -> tuple[Any, ...]:
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    return type(processor).__name__, processor.image_processor.to_dict(), processor.video_processor.to_dict(), processor.chat_template


def test_added_files_change_nothing_for_plain_transformers(tmp_path: Path) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: number for number, character in enumerate(alphabet)}, []))
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in MARKS])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=MARKS[2], pad_token=MARKS[0]).save_pretrained(tmp_path)
    older = {
        "config.json": {"model_type": "qwen2_vl"},
        "chat_template.json": {"chat_template": "{{ messages }}"},
        "preprocessor_config.json": {
            "processor_class": "Qwen2VLProcessor",
            "image_processor_type": "Qwen2VLImageProcessor",
            "min_pixels": 3136,
            "max_pixels": 100352,
            "image_mean": [0.1, 0.2, 0.3],
        },
    }
    for name, value in older.items():
        (tmp_path / name).write_text(json.dumps(value))
    before = opened(tmp_path)
    assert before[1]["size"]["longest_edge"] == 100352
    assert complete(tmp_path) == ["chat_template.jinja", "processor_config.json"]
    assert opened(tmp_path) == before
