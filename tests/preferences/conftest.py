"""A checkout without anything, and a folder with the media that the samples name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from components.checkout import Checkout
from components.preferences.importing.report import ImportReport
from components.preferences.importing.run import Request, import_preferences
from tests.preferences.formats.samples import FRAMES, PICTURES


def save_media(folder: Path) -> None:
    for number, name in enumerate((*PICTURES, "short/one.png", "mcq/two.png", "long/two.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), (40 * number, 90, 200)).save(folder / name)
    for frames in (FRAMES, "video/walk"):
        (folder / frames).mkdir(parents=True, exist_ok=True)
        for number in range(3):
            Image.new("RGB", (64, 48), (200, 40 * number, 90)).save(folder / frames / f"{number}.png")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "theirs"
    save_media(folder)
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "ours")


@pytest.fixture
def bring(checkout: Checkout) -> Callable[..., ImportReport]:
    """Import a path into the checkout."""

    def run(path: Path | str, **request: Any) -> ImportReport:
        return import_preferences(Request(str(path), **request), checkout, lambda _: None)

    return run


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read_target(checkout: Checkout, name: str = "data.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (checkout.preferences / name).read_text(encoding="utf-8").splitlines()]
