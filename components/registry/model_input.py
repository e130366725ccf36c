"""Rows that a registered model is asked about: a prompt, and an image as path, bytes or base64.

- A string is base64 when it decodes, strictly, to bytes that open like an image; anything else is a path. So "/9j/4AAQ..." is a JPEG.
- A prompt that holds one of the model's own marks is refused, as validation refuses it: the model would read it as structure.
- A server should set MMALIGN_IMAGE_ROOT: paths must then lie in that folder, or anyone who may ask could read this machine's images.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from PIL import Image, UnidentifiedImageError

from components.config.features import FeatureSettings
from components.config.model import ModelSettings
from components.errors import UserError
from components.families.processing import Preprocessor
from components.files import digest_bytes
from components.preferences.faults import shorten
from components.preferences.record import Query
from components.validation.media import FORMATS, MAX_ASPECT, MAX_IMAGE_BYTES, MAX_PIXELS

if TYPE_CHECKING:
    import pandas as pd

IMAGE_ROOT = "MMALIGN_IMAGE_ROOT"
PIXELS_MAX_GB = 1.0  # preprocessed pixels kept during one call, so that rows about one image process it once
# How files of FORMATS begin: what tells bytes of an image from a path that happens to be valid base64.
BEGINNINGS = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"BM", b"GIF8", b"II*\0", b"MM\0*", b"P1", b"P2", b"P3", b"P4", b"P5", b"P6")


class BadRequest(UserError, MlflowException):  # type: ignore[misc]  # mlflow is not typed
    """A row or parameter that can't be used: MLflow's server hands its sentence to the client, with status 400."""

    def __init__(self, message: str) -> None:
        MlflowException.__init__(self, message, error_code=INVALID_PARAMETER_VALUE)


class RowPreprocessor(Preprocessor):
    """Turns rows into a model's input. Images lie in memory, and only as long as one call."""

    def __init__(self, base: Path, *, attention: str, max_length: int, max_frames: int) -> None:
        settings = ModelSettings.model_validate({"base": base, "attention": attention, "max_length": max_length, "max_frames": max_frames})
        super().__init__(base, Path(), settings, FeatureSettings(pixels_max_gb=PIXELS_MAX_GB))
        self._images: dict[str, Image.Image] = {}

    def queries(self, rows: pd.DataFrame) -> list[Query]:
        """A query for each row, in order, without responses. BadRequest names the row, counted from 0, and what is wrong with it."""
        marks = self.media_tokens()
        images = rows["image"] if "image" in rows else [None] * len(rows)
        queries = []
        for number, (prompt, image) in enumerate(zip(texts(rows, "prompt"), images, strict=True)):
            mark = next((mark for mark in marks if mark in prompt), None)
            if mark is not None:
                raise BadRequest(f"row {number}: the prompt holds {shorten(mark)}, which the model reads as structure: take it out")
            digest = None if is_missing(image) else self._keep_image(number, image)
            queries.append(Query(str(number), "short", prompt, (), digest, None if digest is None else "image", digest))
        return queries

    def load_image(self, query: Query, blank: bool) -> Image.Image:  # noqa: ARG002 -- nobody asks a registered model about blanks
        """The image that came with the query's row."""
        assert query.media is not None
        return self._images[query.media]

    def forget(self) -> None:
        """Drop what was kept for the rows of a call."""
        self._images.clear()
        self._roots.clear()
        self._root_bytes = 0

    def _keep_image(self, number: int, cell: Any) -> str:
        try:
            content = image_bytes(cell)
            digest = digest_bytes(content)
            if digest not in self._images:
                self._images[digest] = decode(content)
        except ValueError as error:
            raise BadRequest(f"row {number}: the image {error}") from error
        return digest


def texts(rows: pd.DataFrame, column: str) -> Iterator[str]:
    """A column of text. BadRequest where the column is not there or a cell holds something else."""
    if column not in rows:
        raise BadRequest(f"the rows have no column '{column}': they have {', '.join(map(str, rows.columns)) or 'none'}")
    for number, value in enumerate(rows[column]):
        if not isinstance(value, str):
            raise BadRequest(f"row {number}: '{column}' is {type(value).__name__}, not text")
        yield value


def token_limit(params: Mapping[str, Any] | None, usual: int) -> int:
    """How many tokens to write at most: `max_new_tokens` of a call, or the usual number."""
    asked = (params or {}).get("max_new_tokens")
    limit = usual if asked is None else int(asked)
    if limit < 1:
        raise BadRequest(f"max_new_tokens is {limit}: ask for 1 at least")
    return limit


def is_missing(cell: Any) -> bool:
    """Whether an image cell means that there is none: null, NaN or empty."""
    return cell is None or (isinstance(cell, float) and cell != cell) or (isinstance(cell, str | bytes) and not cell)


def image_bytes(cell: Any) -> bytes:
    """The bytes of an image that is given as bytes, base64 (a data address too) or a path. ValueError says what is wrong with it."""
    if isinstance(cell, bytes | bytearray | memoryview):
        return bytes(cell)
    if not isinstance(cell, str | Path):
        raise ValueError(f"is {type(cell).__name__}: give a path, bytes, base64 or null")  # noqa: TRY004 -- one error for all cells
    text = str(cell)
    if text[:5].lower() == "data:":
        header, _, payload = text.partition(",")
        content = _base64(payload) if header.lower().endswith(";base64") else None
        if content is None:
            raise ValueError(f"{shorten(text)} is a data address that is not valid base64")
        return content
    content = _base64(text)
    if content is not None and content.startswith(BEGINNINGS):
        return content
    return _read(text)


def decode(content: bytes) -> Image.Image:
    """An image in RGB, decoded whole. ValueError says what is wrong with it."""
    if len(content) > MAX_IMAGE_BYTES:
        raise ValueError(f"has {len(content)} bytes: at most {MAX_IMAGE_BYTES} are read")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is stricter
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                width, height = image.size
                fits = width * height <= MAX_PIXELS and max(width, height) <= MAX_ASPECT * min(width, height)
                decoded = image.convert("RGB") if fits else None
    except UnidentifiedImageError as error:
        raise ValueError(f"is none of {', '.join(FORMATS)}") from error
    except Exception as error:  # decoders raise whatever a broken file makes them meet
        raise ValueError(f"can't be decoded ({' '.join(str(error).split())[:120]})") from error
    if decoded is None:
        raise ValueError(f"is {width} x {height}: at most {MAX_PIXELS} pixels and {MAX_ASPECT} times as long as wide are read")
    return decoded


def _base64(text: str) -> bytes | None:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


def _read(text: str) -> bytes:
    root = os.environ.get(IMAGE_ROOT)
    name = shorten(text)
    try:
        path = Path(root, text).resolve() if root else Path(text)
        if root and not path.is_relative_to(Path(root).resolve()):
            raise ValueError(f"{name} lies outside the folder that {IMAGE_ROOT} names")
        if not path.is_file():
            raise ValueError(f"{name} is neither a file nor the base64 of an image")
        if path.stat().st_size > MAX_IMAGE_BYTES:
            raise ValueError(f"{name} has more than {MAX_IMAGE_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:  # a name too long, no permission
        raise ValueError(f"{name} can't be read: {error.strerror}") from error
