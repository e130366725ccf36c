"""A base that training would misuse is refused by the stage that runs first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoProcessor

from components.checkout import Checkout
from components.errors import UserError
from components.validation import stage
from tests.tiny import save_checkout, save_checkpoint

ROW = {
    "id": "a",
    "question": "What is in the [scene]?",
    "models_output": ["A cup.", "Nothing."],
    "final_ranking": [1, 2],
    "image": "",
    "video": "",
}


def test_base_with_token_without_row_is_refused_first(tmp_path: Path, tiny_media: Path) -> None:
    base = save_checkpoint(tmp_path / "base")
    processor = AutoProcessor.from_pretrained(base)
    processor.tokenizer.add_tokens(["[scene]"])
    processor.save_pretrained(base)
    (tmp_path / "checkout").mkdir()
    settings = save_checkout(tmp_path / "checkout", base, tiny_media)
    (tmp_path / "checkout/data/preferences/data.jsonl").write_text(json.dumps(ROW) + "\n")
    with pytest.raises(UserError, match="has more tokens than the embedding has rows"):
        stage.run(settings, Checkout(tmp_path / "checkout"))
