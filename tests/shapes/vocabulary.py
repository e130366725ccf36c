"""The real vocabulary of Qwen as a tokenizer file: 151,643 tokens from the package dashscope, and a checkpoint's special tokens after them."""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers.convert_slow_tokenizer import bytes_to_unicode

ORDINARY = 151_643
FLAGS = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
# How Qwen cuts a text before the merges: contractions, words, single digits, punctuation, line ends, spaces.
PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def ranks() -> dict[bytes, int]:
    """Tokens as bytes with their ids, which are the order of the merges too."""
    spec = find_spec("dashscope")
    assert spec is not None
    assert spec.origin is not None
    lines = (Path(spec.origin).parent / "resources/qwen.tiktoken").read_bytes().splitlines()
    return {base64.b64decode(token): int(number) for token, number in (line.split() for line in lines)}


@cache
def vocabulary_and_merges() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary in byte-level form, and for each longer token the two that were merged into it."""
    numbers, letters = ranks(), bytes_to_unicode()
    write = lambda token: "".join(letters[byte] for byte in token)  # noqa: E731
    merges = [tuple(map(write, _halves(token, rank, numbers))) for token, rank in numbers.items() if len(token) > 1]
    return {write(token): rank for token, rank in numbers.items()}, merges  # type: ignore[return-value]


def save_tokenizer(folder: Path, added: Mapping[str, int], plain: Collection[str] = (), **settings: Any) -> None:
    """Write tokenizer.json, vocab.json, merges.txt and tokenizer_config.json.

    `added` are the tokens that follow the ordinary ones, with their ids; they are special, but for those in `plain`.
    """
    vocabulary, merges = vocabulary_and_merges()
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, fuse_unk=False, byte_fallback=False, ignore_merges=False))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PATTERN), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokens = [AddedToken(token, special=token not in plain, normalized=False) for token in sorted(added, key=added.__getitem__)]
    for token in tokens:
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    assert all(tokenizer.token_to_id(token) == number for token, number in added.items())
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    tokenizer.model.save(str(folder))
    config = {
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(number): {"content": token, **FLAGS, "special": token not in plain} for token, number in added.items()
        },
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
        **settings,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _halves(token: bytes, rank: int, numbers: Mapping[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens that the merge of this rank joins: what the earlier merges make of its bytes."""
    parts = [token[index : index + 1] for index in range(len(token))]
    while len(parts) > 2:
        candidates = ((numbers.get(parts[index] + parts[index + 1], rank), index) for index in range(len(parts) - 1))
        earlier, index = min(candidates)
        assert earlier < rank
        parts[index : index + 2] = [parts[index] + parts[index + 1]]
    return parts[0], parts[1]
