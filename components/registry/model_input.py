"""Input rows of a registered model: a prompt, or a conversation in `messages`, and an image or a list of images as path, bytes or base64.

- Marks `<image>` are the places of the images, as in data (components.preferences.turns); without marks they come first.
- A string is base64 when it decodes, strictly, to bytes that begin like an image; any other string is a path. So "/9j/4AAQ..." is a JPEG.
- A prompt with one of the model's own marks is refused, as in validation: the model would read it as structure.
- Paths are off. MMALIGN_IMAGE_ROOT switches them on for the files of one folder; what links of that folder lead out to is refused too.
- Images have validation's bounds. A prompt and its response must fit into the model's `max_length`, which also caps the tokens of a request.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from PIL import Image

from components.config.features import FeatureSettings
from components.config.model import ModelSettings
from components.errors import UserError
from components.families.processing import Preprocessor
from components.files import digest_bytes
from components.preferences.bounds import MAX_IMAGE_BYTES, MediaBounds
from components.preferences.colors import WHITE
from components.preferences.faults import RowError, shorten
from components.preferences.media import read_picture
from components.preferences.record import Medium, Query
from components.preferences.turns import read_turns

if TYPE_CHECKING:
    import pandas as pd

IMAGE_ROOT = "MMALIGN_IMAGE_ROOT"
BOUNDS = MediaBounds()  # a client's images have validation's default bounds
TOKEN_CHARACTERS = 128  # that one token has at most; longer texts are refused before they are tokenized
PIXELS_MAX_GB = 1.0  # preprocessed pixels cached during one call, so that rows about one image process it once
# First bytes of FORMATS, which distinguish an image from a path that happens to be valid base64.
BEGINNINGS = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"BM", b"GIF8", b"II*\0", b"MM\0*", b"P1", b"P2", b"P3", b"P4", b"P5", b"P6")


class BadRequest(UserError, MlflowException):  # type: ignore[misc]  # mlflow is not typed
    """A row or parameter is not valid: MLflow's server sends the sentence to the client, with status 400."""

    def __init__(self, message: str) -> None:
        MlflowException.__init__(self, message, error_code=INVALID_PARAMETER_VALUE)


class RowPreprocessor(Preprocessor):
    """Turns rows into a model's input. Images stay in memory for one call."""

    def __init__(self, base: Path, *, attention: str, max_length: int, max_frames: int, background: str = WHITE) -> None:
        reading = {"attention": attention, "max_length": max_length, "max_frames": max_frames, "background": background}
        settings = ModelSettings.model_validate({"base": base, **reading})
        super().__init__(base, Path(), settings, FeatureSettings(pixels_max_gb=PIXELS_MAX_GB))
        self.max_length = max_length
        self._images: dict[str, Image.Image] = {}

    def queries(self, rows: pd.DataFrame) -> list[Query]:
        """A query for each row, in order, without responses. BadRequest names the row, counted from 0, and its mistake."""
        prompts: Iterable[Any] = [""] * len(rows) if "messages" in rows and "prompt" not in rows else texts(rows, "prompt")
        images, messages = (rows[name] if name in rows else [None] * len(rows) for name in ("image", "messages"))
        return [self._query(number, *row) for number, row in enumerate(zip(prompts, messages, images, strict=True))]

    def _query(self, number: int, prompt: str, messages: Any, image: Any) -> Query:
        cells = image if isinstance(image, list | tuple | np.ndarray) else [] if is_missing(image) else [image]
        digests = [self._keep_image(number, cell) for cell in cells]
        row: dict[str, Any] = {"question": prompt, "image": digests}
        if not is_missing(messages):
            row["messages"] = [dict(message) for message in messages] if isinstance(messages, list | tuple | np.ndarray) else messages
        try:
            turns, media = read_turns(row)
        except RowError as fault:
            raise BadRequest(f"row {number}: {fault.field.replace('question', 'prompt')}: {fault.reason}") from fault
        mark = next((mark for mark in self.media_tokens() for turn in turns if mark in turn.text), None)
        if mark is not None:
            raise BadRequest(f"row {number}: the prompt contains {shorten(mark)}, which the model reads as structure: remove it")
        characters = sum(len(turn.text) for turn in turns)
        if characters > self.max_length * TOKEN_CHARACTERS:
            raise BadRequest(f"row {number}: the prompt has {characters:,} characters, more than {self.max_length} tokens: shorten it")
        query = Query(str(number), "short", turns, (), tuple(replace(medium, digest=medium.path) for medium in media))
        try:
            tokens = self.policy_length(query)
        except UserError as error:
            raise BadRequest(f"row {number}: {error}") from error
        if tokens > self.max_length:
            raise BadRequest(f"row {number}: the prompt takes {tokens:,} tokens, more than this model's {self.max_length}: shorten it")
        return query

    def check_responses(self, items: Sequence[tuple[Query, str]], instruction: str) -> None:
        """BadRequest for a response that does not fit behind its prompt."""
        for number, (query, response) in enumerate(items):
            fits = len(response) <= self.max_length * TOKEN_CHARACTERS
            if not fits or self.judge_length(query, instruction) + len(self.response_ids(response)) > self.max_length:
                raise BadRequest(
                    f"row {number}: prompt and response take more than this model's {self.max_length} tokens: shorten the response"
                )

    def media_size(self, medium: Medium) -> tuple[int, int, int]:
        """Width and height of an image of a row, and 1."""
        return *self._images[medium.path].size, 1

    def load_image(self, medium: Medium, blank: bool) -> Image.Image:  # noqa: ARG002 -- a registered model answers about no blanks
        """An image of a row, whose path is its digest."""
        return self._images[medium.path]

    def forget(self) -> None:
        """Drop the images and pixels of the last call."""
        self._images.clear()
        self._roots.clear()
        self._root_bytes = 0

    def _keep_image(self, number: int, cell: Any) -> str:
        try:
            content = image_bytes(cell)
            digest = digest_bytes(content)
            if digest not in self._images:
                self._images[digest] = decode(content, self.background)
        except ValueError as error:
            raise BadRequest(f"row {number}: the image {error}") from error
        return digest


def texts(rows: pd.DataFrame, column: str) -> Iterator[str]:
    """A column of text. BadRequest where the column is missing or a cell is not text."""
    if column not in rows:
        raise BadRequest(f"the rows have no column '{column}': they have {', '.join(map(str, rows.columns)) or 'none'}")
    for number, value in enumerate(rows[column]):
        if not isinstance(value, str):
            raise BadRequest(f"row {number}: '{column}' is {type(value).__name__}, not text")
        yield value


def token_limit(params: Mapping[str, Any] | None, usual: int, most: int) -> int:
    """The most tokens to write: `max_new_tokens` of a call, up to the larger of `usual` and `most`; without it `usual`."""
    wanted = (params or {}).get("max_new_tokens")
    limit = usual if wanted is None else int(wanted)
    if limit < 1:
        raise BadRequest(f"max_new_tokens is {limit}: set it to 1 at least")
    if limit > max(usual, most):
        raise BadRequest(f"max_new_tokens is {limit}: this model writes {max(usual, most)} at most")
    return limit


def is_missing(cell: Any) -> bool:
    """Whether an image cell is empty: null, NaN or an empty text."""
    return cell is None or (isinstance(cell, float) and cell != cell) or (isinstance(cell, str | bytes) and not cell)


def image_bytes(cell: Any) -> bytes:
    """The bytes of an image cell: bytes, base64 (a data address too) or a path. ValueError says what is wrong with it."""
    if isinstance(cell, bytes | bytearray | memoryview):
        return bytes(cell)
    if not isinstance(cell, str | Path):
        raise ValueError(f"is {type(cell).__name__}: send a path, bytes, base64 or null")  # noqa: TRY004 -- one error for all cells
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


def decode(content: bytes, background: str = WHITE) -> Image.Image:
    """An image in RGB as training reads it, decoded whole. ValueError says what is wrong with it."""
    if len(content) > MAX_IMAGE_BYTES:
        raise ValueError(f"has {len(content)} bytes: at most {MAX_IMAGE_BYTES} are allowed")
    return read_picture(content, background, BOUNDS)


def _base64(text: str) -> bytes | None:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


def _read(text: str) -> bytes:
    root = os.environ.get(IMAGE_ROOT)
    name = shorten(text)
    if not root:
        raise ValueError(
            f"{name} is not the base64 of an image, and this model reads no paths: send bytes or base64, or set {IMAGE_ROOT} to a folder"
        )
    try:
        path = Path(root, text).resolve()
        if not path.is_relative_to(Path(root).resolve()):
            raise ValueError(f"{name} lies outside the folder of {IMAGE_ROOT}")
        if not path.is_file():
            raise ValueError(f"{name} is neither a file nor the base64 of an image")
        if path.stat().st_size > MAX_IMAGE_BYTES:
            raise ValueError(f"{name} has more than {MAX_IMAGE_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:  # a name too long, no permission, a loop of links
        raise ValueError(f"{name} can't be read: {error.strerror}") from error
