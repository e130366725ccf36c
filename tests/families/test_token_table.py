from pathlib import Path

import numpy as np
import pytest

from components.checkout import Checkout
from components.families.processing import Preprocessor
from components.families.token_table import open_tokens
from components.preferences.query_table import open_queries
from components.reward.scoring import judge_branch
from components.trees.scoring import policy_tree
from components.trees.trees import Tree
from tests.tiny import preprocessor, queries, save_checkout

INSTRUCTION = "Judge it:"


@pytest.fixture
def checkout(tmp_path: Path, tiny_base: Path, tiny_media: Path) -> Checkout:
    save_checkout(tmp_path, tiny_base, tiny_media)
    return Checkout(tmp_path)


@pytest.fixture
def reader(checkout: Checkout) -> Preprocessor:
    return preprocessor(checkout.root / "data/base", checkout.preferences)


def test_lengths_and_tokens_are_those_of_the_trees(checkout: Checkout, reader: Preprocessor) -> None:
    tokens = open_tokens(checkout, reader, open_queries(checkout, "train"), INSTRUCTION)
    policy = [policy_tree(reader, query) for query in queries()]
    judge = [
        Tree(
            reader.judge_root(query, INSTRUCTION),
            tuple(judge_branch(reader, response.text, response.critique or "", learn=True) for response in query.responses),
        )
        for query in queries()
    ]
    assert tokens.policy_tokens().tolist() == [tree.tokens for tree in policy]
    assert tokens.judge_tokens(len(reader.judge_ids(""))).tolist() == [tree.tokens for tree in judge]
    number = 0
    for query, tree in zip(queries(), policy, strict=True):
        for response, branch in zip(query.responses, tree.branches, strict=True):
            assert tokens.responses[number] == branch.input_ids
            assert list(tokens.critiques[number]) == reader.critique_ids(response.critique or "")
            number += 1
    assert tokens.first[-1] == number == len(tokens.responses.lengths)


def test_ids_are_32_bits_wide_and_mapped(checkout: Checkout, reader: Preprocessor) -> None:
    tokens = open_tokens(checkout, reader, open_queries(checkout, "train"), INSTRUCTION)
    for texts in (tokens.responses, tokens.critiques):
        assert isinstance(texts.tokens, np.memmap)
        assert texts.tokens.dtype == np.int32


def test_table_is_tokenized_once(checkout: Checkout, reader: Preprocessor, monkeypatch: pytest.MonkeyPatch) -> None:
    table = open_queries(checkout, "train")
    first = open_tokens(checkout, reader, table, INSTRUCTION)
    monkeypatch.setattr(reader, "response_ids", lambda _: pytest.fail("tokenized again"))
    assert open_tokens(checkout, reader, table, INSTRUCTION).responses[3] == first.responses[3]
    with pytest.raises(pytest.fail.Exception, match="tokenized again"):
        open_tokens(checkout, reader, table, "Another instruction:")
