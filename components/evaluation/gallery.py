"""The gallery of held-out answers: one page without a network, with filters, that 2,000 rows don't make slow or large.

Prompts, answers and critiques are hostile input: the page escapes them, and its policy lets no script run but its own. It works without a
script, too, and by keyboard.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from PIL import Image

from components.preferences.colors import WHITE
from components.preferences.frames import frame_names
from components.preferences.media import locate, read_picture
from components.preferences.record import CATEGORIES, Kind, Query
from components.printable import printable_all

FRAMES_SHOWN = 4
THUMBNAIL = 160  # pixels of the longer side, at most
IMAGES_BYTES = 7_500_000  # of all images together: with their base64 and 2,000 rows of text the page stays under 15 MB
IMAGE_BYTES = 12_000  # of an image where there are few
# (pixels of the longer side, quality of WebP), tried until an image is small enough.
ENCODINGS = ((THUMBNAIL, 70), (THUMBNAIL, 45), (112, 40), (80, 30), (48, 20))


def render(rows: Sequence[Mapping[str, Any]], images: Sequence[Sequence[str]]) -> str:
    """The page of `rows`, as samples.jsonl has them, with the `images` of each as addresses that hold their content."""
    folder = Path(__file__).parent
    environment = Environment(loader=FileSystemLoader(folder), autoescape=True, trim_blocks=True, finalize=printable_all)
    style, script = (Markup((folder / name).read_text(encoding="utf-8")) for name in ("gallery.css", "gallery.js"))  # noqa: S704 -- ours
    samples = [{"row": row, "images": pictures, "disagrees": disagrees(row)} for row, pictures in zip(rows, images, strict=True)]
    categories = {row["category"] for row in rows}
    return environment.get_template("gallery.html.j2").render(
        samples=samples,
        categories=[category for category in CATEGORIES if category in categories],
        marks=sorted({row["policies"][-1]["mark"] for row in rows}),
        style=style,
        script=script,
        style_digest=_digest(style),
        script_digest=_digest(script),
    )


def disagrees(row: Mapping[str, Any]) -> bool:
    """Whether the reward model puts the two answers the other way round than the judge does."""
    before, after = (policy["score"] for policy in row["policies"])
    return bool((row["change"] == "worse" and after > before) or (row["change"] == "better" and after < before))


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def thumbnails(media_root: Path, queries: Sequence[Query], background: str = WHITE) -> list[list[str]]:
    """Small pictures of each query's media, in order, as `data:` addresses: one for an image, the first few frames of a video."""
    files = [[file for medium in query.media for file in _files(locate(media_root, medium.path), medium.kind)] for query in queries]
    most = min(IMAGE_BYTES, IMAGES_BYTES // max(1, sum(map(len, files))))
    made: dict[Path, str] = {}
    for file in (file for members in files for file in members):
        if file not in made:
            made[file] = _thumbnail(file, background, most)
    return [[made[file] for file in members] for members in files]


def _files(path: Path, kind: Kind) -> list[Path]:
    return [path] if kind == "image" else [path / name for name in frame_names(path)[:FRAMES_SHOWN]]


def _thumbnail(path: Path, background: str, most: int) -> str:
    """A PNG where that is small enough, as of drawings, else a WebP."""
    picture = read_picture(path, background)
    content, kind = _encoded(picture, THUMBNAIL, "PNG", {}), "png"
    for side, quality in ENCODINGS:
        if len(content) <= most:
            break
        content, kind = _encoded(picture, side, "WEBP", {"quality": quality}), "webp"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _encoded(picture: Image.Image, side: int, file_format: str, options: Mapping[str, int]) -> bytes:
    small = picture.copy()
    small.thumbnail((side, side))
    stream = io.BytesIO()
    small.save(stream, file_format, **options)
    return stream.getvalue()
