"""Parsers of a stranger's checkpoint: its texts, weights, processor and chat template; and of pictures."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from components.families.hub.files import check_config, check_folder, complete, license_of
from components.families.hub.manifest import MANIFEST, verify
from components.preferences.bounds import MediaBounds
from components.preferences.colors import WHITE
from components.preferences.media import picture_size, read_picture
from tests.fuzz.rows import value_of

CONFIG: dict[str, Any] = {"model_type": "llava_onevision", "text_config": {"hidden_size": 8, "vocab_size": 9}, "vision_config": {}}
INDEX = {"metadata": {"total_size": 8}, "weight_map": {"weight": "model.safetensors"}}
MANIFEST_FILE = {"source": "a/b", "revision": None, "licence": None, "files": {"config.json": {"bytes": 2, "sha256": "0"}}}
ADAPTERS = {"r": 8, "lora_alpha": 16, "base_model_name_or_path": "base"}
BASE = {"path": "../base", "digest": "0"}
README = b"---\nlicense: apache-2.0\n---\n# A model\n"
TEMPLATE = {"chat_template": "{% for message in messages %}{{ message['content'] }}{% endfor %}", "processor_class": "X"}
PART = "\n"  # behind the name of the file that an input of a checkpoint replaces
TEXTS: dict[str, Any] = {
    "config.json": CONFIG,
    "tokenizer.json": {},
    "tokenizer_config.json": TEMPLATE,
    "preprocessor_config.json": {"processor_class": "X", "size": {"height": 32}},
    "model.safetensors.index.json": INDEX,
    MANIFEST: MANIFEST_FILE,
}
ADAPTER_TEXTS: dict[str, Any] = {"adapter_config.json": ADAPTERS, "base.json": BASE}


def safetensors(header: object, size: int) -> bytes:
    """A file with this header, followed by so many bytes."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(size)


HEADER = {"weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
WEIGHTS = safetensors(HEADER, 8)


def named(name: str, content: bytes) -> bytes:
    """The input of a checkpoint in which `content` is the file `name`."""
    return f"{name}{PART}".encode() + content


def checkpoint(content: bytes) -> None:
    """A folder that is good but for one file."""
    name, _, file = content.partition(PART.encode())
    replaced = name.decode(errors="replace")
    if replaced not in {*TEXTS, "README.md", "model.safetensors"}:
        return
    good = {name: json.dumps(TEXTS[name]).encode() for name in ("config.json", "tokenizer.json")} | {"model.safetensors": WEIGHTS}
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        for name, text in (good | {replaced: file}).items():
            (folder / name).write_bytes(text)
        check_folder(folder, "the checkpoint")
        if replaced == MANIFEST:
            verify(folder, "the checkpoint")
        complete(folder)
        license_of(folder)


def adapters(content: bytes) -> None:
    """A folder of adapters with one other text."""
    from components.families.lora import _scale, base_of
    from components.families.regular import read_object

    name, _, file = content.partition(PART.encode())
    replaced = name.decode(errors="replace")
    if replaced not in ADAPTER_TEXTS:
        return
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        (folder / replaced).write_bytes(file)
        if replaced == "base.json":
            base_of(folder)
        else:
            _scale(read_object(folder / replaced, "the adapters"), folder)


def config(content: bytes) -> None:
    """A configuration."""
    value = value_of(content)
    if isinstance(value, dict):
        check_config(value, "config.json")


@cache
def _tiny() -> Path:
    from tests.tiny import save_checkpoint

    return save_checkpoint(Path(tempfile.mkdtemp(prefix="mmalign-fuzz-")))


PROCESSOR_FILES = ("processor_config.json", "tokenizer_config.json", "tokenizer.json", "config.json", "generation_config.json")


def processors() -> dict[str, Any]:
    """The texts of a small checkpoint that transformers opens."""
    return {name: json.loads((_tiny() / name).read_text()) for name in PROCESSOR_FILES}


def processor(content: bytes) -> None:
    """transformers' processor and configuration of a checkpoint with one other text."""
    from components.families.opening import check_model, open_processor

    name, _, file = content.partition(PART.encode())
    replaced = name.decode(errors="replace")
    if replaced not in PROCESSOR_FILES:
        return
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path) / "checkpoint"
        shutil.copytree(_tiny(), folder)
        (folder / replaced).write_bytes(file)
        if replaced == "config.json":
            check_model(folder)
        else:
            open_processor(folder)


class _Processor:
    """As much of a processor as a chat template needs: transformers' own rendering."""

    image_token, video_token = "<image>", "<video>"
    tokenizer = SimpleNamespace(special_tokens_map={"eos_token": "</s>"}, name_or_path="the checkpoint")

    def __init__(self, template: str) -> None:
        self.chat_template = template

    def apply_chat_template(self, messages: list[Any], *, tokenize: bool, **options: Any) -> str:
        from transformers.utils.chat_template_utils import render_jinja_template

        assert not tokenize
        rendered, _ = render_jinja_template([messages], chat_template=self.chat_template, eos_token="</s>", **options)
        return str(rendered[0])


def template(content: bytes) -> None:
    """A chat template, through the process with limits and through transformers."""
    from components.families.adapters import FAMILIES
    from components.families.chat_template import ChatTemplate

    ChatTemplate(Path("base"), _Processor(content.decode(errors="replace")), FAMILIES["llava_onevision"]).refuse_unusable()


def picture(content: bytes) -> None:
    """A picture, by its header and decoded whole, within the bounds that a picture of a request has."""
    picture_size(content)
    read_picture(content, WHITE, MediaBounds())


def pictures() -> list[bytes]:
    """Small pictures in every format that is read, plain and odd."""
    from PIL import Image

    made = []
    for form, mode, options in (
        ("PNG", "RGB", {}),
        ("PNG", "P", {}),
        ("PNG", "I;16", {}),
        ("PNG", "LA", {}),
        ("JPEG", "RGB", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"}),
        ("JPEG", "CMYK", {"progressive": True}),
        ("GIF", "P", {}),
        ("BMP", "RGB", {}),
        ("TIFF", "F", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("PPM", "RGB", {}),
    ):
        stream = io.BytesIO()
        Image.new(mode, (5, 3)).save(stream, form, **options)
        made.append(stream.getvalue())
    return made
