from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.checkout import Checkout
from demo.text import train_tokenizer
from tests.settings import copy_settings

INSTRUCTION = "Judge the answer to the question: say what is right, what is wrong, and why."


def test_base_opens_in_plain_transformers_and_answers(installed: Path) -> None:
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    torch.set_num_threads(1)
    processor = AutoProcessor.from_pretrained(installed / "base", local_files_only=True)
    model = AutoModelForImageTextToText.from_pretrained(installed / "base", local_files_only=True).eval()
    rows = [json.loads(line) for line in (installed / "preferences" / "heldout.jsonl").read_text().splitlines()]
    chosen = [row for row in rows if row["id"].startswith("short_colour") and "teal" not in row["answer"] and "brown" not in row["answer"]][
        :12
    ]
    right = 0
    for row in chosen:
        messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": row["question"]}]}]
        prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
        image = Image.open(installed / "preferences" / row["image"])
        inputs = processor(text=prompt, images=image, return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=32, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        right += processor.decode(output, skip_special_tokens=True).rstrip(".").endswith(row["answer"].rstrip(".").split()[-1])
    assert len(chosen) == 12
    assert right >= 10


def test_base_holds_no_pickle_and_one_metadata_key(installed: Path) -> None:
    from safetensors import safe_open

    names = {path.name for path in (installed / "base").iterdir()}
    assert {path for path in names if path.endswith((".bin", ".pt", ".pkl", ".py"))} == set()
    with safe_open(installed / "base" / "model.safetensors", framework="pt") as weights:
        assert len(weights.metadata() or {}) <= 1


def test_equal_words_give_equal_tokenizer(installed: Path) -> None:
    trained = json.loads(train_tokenizer(INSTRUCTION).backend_tokenizer.to_str())
    bundled = json.loads((installed / "base" / "tokenizer.json").read_text())
    assert trained["model"] == bundled["model"]


@pytest.mark.slow
def test_base_training_resumes_after_last_saved_phase(tmp_path: Path) -> None:

    from demo.train_base import train_base

    copy_settings(tmp_path)
    train_base(Checkout(tmp_path), steps_share=0.004)
    weights = tmp_path / "data" / "base" / "model.safetensors"
    first = weights.read_bytes()
    (tmp_path / ".mmalign" / "demo-base" / "3-checks.safetensors").unlink()
    train_base(Checkout(tmp_path), steps_share=0.004)
    assert weights.read_bytes() == first
