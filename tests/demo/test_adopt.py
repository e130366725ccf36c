from __future__ import annotations

from pathlib import Path

import pytest
import torch

from components.errors import UserError
from demo.architecture import build_model
from demo.checkpoint import build_processor, save_checkpoint, token_ids
from demo.text import train_tokenizer
from demo.train_base import adopt
from tests.demo.test_rows import INSTRUCTION


class Longer:
    """The demo's tokenizer with a new word in front."""

    def __init__(self, vocabulary: dict[str, int]) -> None:
        self.vocabulary = {"new": 0} | {token: row + 1 for token, row in vocabulary.items()}

    def get_vocab(self) -> dict[str, int]:
        return self.vocabulary


def test_adopted_weights_follow_their_tokens(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(INSTRUCTION)
    earlier = build_model(len(tokenizer), token_ids(tokenizer), 0)
    save_checkpoint(earlier, build_processor(tokenizer), tmp_path / "base")
    model = build_model(len(tokenizer) + 1, token_ids(tokenizer), 1)
    untrained = model.get_input_embeddings().weight[0].detach().clone()
    adopt(model, Longer(tokenizer.get_vocab()), tmp_path / "base")
    vectors = model.get_input_embeddings().weight
    assert torch.equal(vectors[1:], earlier.get_input_embeddings().weight)
    assert torch.equal(vectors[0], untrained)
    assert torch.equal(model.lm_head.weight, vectors)
    others = {name: value for name, value in model.state_dict().items() if "embed_tokens" not in name and "lm_head" not in name}
    assert others
    assert all(torch.equal(value, earlier.state_dict()[name]) for name, value in others.items())


def test_folder_without_a_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no checkpoint"):
        adopt(None, None, tmp_path)
