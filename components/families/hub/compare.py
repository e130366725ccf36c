"""Where a checkpoint folder differs from what its profile's checkpoint publishes: settings, processor, tokenizer, template and weight files.

Settings are compared as transformers reads them, so files in an older form and in a newer one are equal if they mean the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import safe_open

from components.config.features import FeatureSettings
from components.config.model import ModelSettings
from components.errors import UserError
from components.families.digests import FAMILY_NAMES
from components.families.hub.manifest import read_manifest
from components.families.hub.published import Published, flatten, table
from components.files import read_json

# Fields of which no result depends: who wrote the file, with what, in what dtype.
UNREAD = frozenset(
    {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache", "processor_class", "_from_model_config"}
)
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "a question": [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}],
    "a question about an image": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}],
    "a question about a video": [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "And then?"}]}],
    "an answer": [
        {"role": "user", "content": [{"type": "text", "text": "Why?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "So."}]},
    ],
}


@dataclass(frozen=True)
class Difference:
    """A field of a folder, its value there, and the published one."""

    field: str
    value: Any
    expected: Any


def published_of(folder: Path, config: Mapping[str, Any]) -> Published | None:
    """The table's checkpoint that a folder is: by the source of its fetch, its name, or its model type and language model's size; else None."""
    manifest = read_manifest(folder)
    for name in (str((manifest or {}).get("source", "")).split("/")[-1], folder.resolve().name):
        if name in table():
            return table()[name]
    same = [published for published in table().values() if _identity(published.config) == _identity(config)]
    return same[0] if len(same) == 1 else None


def differences(folder: Path, published: Published) -> list[Difference]:
    """All fields in which `folder` differs from the published checkpoint, in the order of its files."""
    from transformers import AutoImageProcessor, AutoVideoProcessor

    from components.families.opening import CLOSED, open_config, open_processor

    processor = open_processor(folder)
    pairs: list[tuple[str, Any, Any]] = []
    with TemporaryDirectory() as directory:
        expected = Path(directory)
        published.write(expected)
        config = open_config(folder)
        pairs += _pairs("config.json", config.to_dict(), open_config(expected).to_dict())
        image = AutoImageProcessor.from_pretrained(expected, **CLOSED)
        pairs += _pairs("image processor", processor.image_processor.to_dict(), image.to_dict())
        video = AutoVideoProcessor.from_pretrained(expected, **CLOSED)
        pairs += _pairs("video processor", processor.video_processor.to_dict(), video.to_dict())
    for name, value in published.files.get("processor_config.json", {}).items():
        if name not in UNREAD:
            pairs.append((f"processor_config.json: {name}", getattr(processor, name, None), value))
    path = folder / "generation_config.json"
    generation = read_json(path) if path.is_file() else {}
    for name, value in published.files.get("generation_config.json", {}).items():
        if name not in UNREAD:
            pairs.append((f"generation_config.json: {name}", generation.get(name), value))
    pairs += _tokenizer(processor.tokenizer, published)
    for what, conversation in CONVERSATIONS.items():
        opening = {"add_generation_prompt": conversation[-1]["role"] == "user"}
        expected_text = _rendered(processor, conversation, opening | {"chat_template": published.template})
        pairs.append((f"chat template: {what}", _rendered(processor, conversation, opening), expected_text))
    pairs += _weights(folder, config, published)
    return [Difference(*pair) for pair in pairs if pair[1] != pair[2]]


def faults(folder: Path) -> list[str]:
    """What validation would refuse in this folder as a base, in sentences."""
    from components.families.opening import check_finite, check_model
    from components.families.processing import Preprocessor

    model = ModelSettings(base=folder, attention="sdpa", max_length=1, max_frames=1)
    try:
        reader = Preprocessor(folder, folder, model, FeatureSettings(pixels_max_gb=0.001))
        reader.refuse_unusable_template()
        check_model(folder)
        check_finite(folder)
    except UserError as error:
        return [str(error)]
    return []


def _identity(config: Mapping[str, Any]) -> tuple[Any, ...]:
    text = config.get("text_config", config)
    return config.get("model_type"), text.get("hidden_size"), text.get("num_hidden_layers"), text.get("vocab_size")


def _pairs(what: str, values: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Named pairs of all fields of both, as JSON has them."""
    one, other = (dict(flatten(json.loads(json.dumps(side, default=str)))) for side in (values, expected))
    for name in sorted({*one, *other}):
        last = name.split(".")[-1]
        if last in UNREAD:
            continue
        pair = one.get(name), other.get(name)
        if last == "layer_types":
            pair = tuple(sorted(set(kinds or ())) for kinds in pair)  # type: ignore[assignment]  # the number of layers is a field of its own
        yield f"{what}: {name}", *pair


def _tokenizer(tokenizer: Any, published: Published) -> Iterator[tuple[str, Any, Any]]:
    yield "tokenizer: ordinary tokens", tokenizer.vocab_size, min(published.tokens.values())
    yield "tokenizer: eos", tokenizer.eos_token, published.eos
    yield "tokenizer: pad", tokenizer.pad_token, published.pad
    added = {token.content: (number, token.special) for number, token in tokenizer.added_tokens_decoder.items()}
    for token in sorted({*added, *published.tokens}, key=lambda token: (published.tokens.get(token, 1 << 30), token)):
        number = published.tokens.get(token)
        yield f"tokenizer: {token}", added.get(token), None if number is None else (number, token not in published.plain_tokens)


def _rendered(processor: Any, conversation: list[dict[str, Any]], options: dict[str, Any]) -> str:
    from components.families.rendering import render

    try:
        return render(processor, conversation, **options)
    except Exception as error:  # noqa: BLE001 -- a template is a program of the checkpoint's and may fail in any way
        return f"{type(error).__name__}: {error}"


def _weights(folder: Path, config: Any, published: Published) -> Iterator[tuple[str, Any, Any]]:
    files = sorted(folder.glob("*.safetensors"))
    yield "weights: files", len(files), published.shards
    rows: dict[str, int] = {}
    for path in files:
        with safe_open(path, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 -- not a mapping
                if name.endswith(("embed_tokens.weight", "lm_head.weight")):
                    rows[name.split(".")[-2]] = opened.get_slice(name).get_shape()[0]
    text = published.config.get("text_config", published.config)
    yield "weights: rows of the embedding", rows.get("embed_tokens"), text["vocab_size"]
    yield "weights: rows of the head", rows.get("lm_head"), None if published.config.get("tie_word_embeddings") else text["vocab_size"]
    assert config.model_type in FAMILY_NAMES
