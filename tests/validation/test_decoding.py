"""The processes that examine media: what a hostile medium costs, and that it costs no other medium its result."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.checkout import Checkout
from components.errors import StageFault
from components.operations.environment import KEEP_MEMORY
from components.preferences.bounds import MediaBounds
from components.preferences.faults import RowError
from components.validation.decoding import Decoders, Request
from components.validation.examination import Examined, Examiner, Fault, Medium
from components.validation.media import MediaFolder
from tests.conftest import ROOT


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "preferences"
    folder.mkdir()
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    return folder


def deflated(side: int) -> bytes:
    """A PNG of `side` x `side` whose file is a thousandth of its pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(side * (1 + 4 * side)))) + chunk(b"IEND", b"")


def answers(root: Path, paths: list[str], bounds: MediaBounds, count: int = 1) -> dict[str, Medium | Fault]:
    arguments = {"root": str(root), "bounds": asdict(bounds), "checkout": None, "kind": "", "reader": ""}
    decoders = Decoders(Examiner(root, bounds), arguments, bounds, count)
    for path in paths:
        decoders.submit((path, "image"))
    results: dict[Request, Examined] = {}
    while len(results) < len(set(paths)):
        results |= dict(decoders.answers(block=True))
    decoders.close()
    return {path: examined.result for (path, _), examined in results.items()}


def test_answers_are_those_of_this_process(root: Path) -> None:
    (root / "text.png").write_text("No picture.")
    paths = [*(f"{number}.png" for number in range(6)), "text.png", "absent.png"]
    here = Examiner(root, MediaBounds())
    assert answers(root, paths, MediaBounds(), count=2) == {path: here.examine(path, "image").result for path in paths}


def test_medium_past_its_time_costs_no_other(root: Path) -> None:
    (root / "bomb.png").write_bytes(deflated(4000))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    results = answers(root, ["0.png", "1.png", "bomb.png", "2.png", "3.png"], MediaBounds(seconds=0.03))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    bomb = results.pop("bomb.png")
    assert isinstance(bomb, Fault)
    assert bomb == Fault("media_too_large", "'bomb.png' takes more than validate.max_media_seconds 0.03 of CPU time to read")
    assert all(isinstance(result, Medium) for result in results.values())
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.03 + 2 * 0.6  # and the start of two processes


@pytest.mark.parametrize("gigabytes", [0.25, 0.3])  # where it fails, and how, differs with what the C library has taken before
@pytest.mark.parametrize(("file_format", "options"), [("WEBP", {"method": 0}), ("JPEG", {"progressive": True, "subsampling": 0})])
def test_want_of_memory_is_no_damage(root: Path, file_format: str, options: dict[str, Any], gigabytes: float) -> None:
    Image.linear_gradient("L").resize((6000, 6000)).convert("RGB").save(root / "large", file_format, **options)
    examined = answers(root, ["large"], MediaBounds(gigabytes=gigabytes, seconds=20))["large"]
    assert isinstance(examined, Medium) or examined == Fault(
        "media_too_large", "'large' takes more memory than validate.max_media_gb allows"
    )


@pytest.mark.parametrize("environment", [{}, KEEP_MEMORY])
def test_medium_past_its_memory_costs_no_other(root: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (root / "bomb.png").write_bytes(deflated(6000))
    results = answers(root, ["0.png", "bomb.png", "1.png"], MediaBounds(gigabytes=0.3, seconds=20))
    bomb = results.pop("bomb.png")
    assert bomb == Fault("media_too_large", "'bomb.png' takes more memory than validate.max_media_gb allows")
    assert not [result for result in results.values() if isinstance(result, Fault)]


def test_process_that_is_killed_is_replaced(root: Path) -> None:
    bounds = MediaBounds(seconds=60)
    arguments = {"root": str(root), "bounds": asdict(bounds), "checkout": None, "kind": "", "reader": ""}
    decoders = Decoders(Examiner(root, bounds), arguments, bounds, 1)
    decoders.submit(("0.png", "image"))
    results = dict(decoders.answers(block=True))
    process = decoders._workers[0]._process.pid
    os.kill(process, signal.SIGSTOP)
    for path in ("1.png", "2.png"):
        decoders.submit((path, "image"))
    decoders.answers(block=False)  # sends both
    os.kill(process, signal.SIGSEGV)
    os.kill(process, signal.SIGCONT)
    while len(results) < 3:
        results |= dict(decoders.answers(block=True))
    decoders.close()
    assert results["1.png", "image"].result == Fault("media_undecodable", "'1.png' makes its decoder crash (Segmentation fault)")
    assert isinstance(results["2.png", "image"].result, Medium)


def test_process_that_cannot_start_is_fault_of_stage(root: Path) -> None:
    bounds = MediaBounds()
    decoders = Decoders(Examiner(root, bounds), {"bounds": {"unknown": 1}}, bounds, 1)
    decoders.submit(("0.png", "image"))
    with pytest.raises(StageFault, match="ended at its start"):
        decoders.answers(block=True)
    decoders.close()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "checkout")


def validated(root: Path, checkout: Checkout, *paths: str, bounds: MediaBounds = MediaBounds()) -> dict[str, str]:  # noqa: B008 -- it never changes
    folder = MediaFolder(root, bounds, checkout)
    folder.request({"image": path} for path in paths)
    results = {}
    for path in paths:
        try:
            results[path] = folder.examine(path, "image").digest
        except RowError as fault:
            results[path] = fault.reason
    folder.close()
    return results


def test_second_validation_remembers_media_and_faults(root: Path, checkout: Checkout) -> None:
    bounds = MediaBounds(seconds=0.03)
    (root / "bomb.png").write_bytes(deflated(4000))
    (root / "text.png").write_text("No picture.")
    paths = ["0.png", "1.png", "bomb.png", "text.png"]
    first = validated(root, checkout, *paths, bounds=bounds)
    assert "max_media_seconds 0.03" in first["bomb.png"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert validated(root, checkout, *paths, bounds=bounds) == first
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Without the memory, the bomb alone would cost its time and a second process.
    assert after.ru_utime - before.ru_utime < 0.03 + 0.6


def test_changed_file_and_changed_bounds_are_examined_anew(root: Path, checkout: Checkout) -> None:
    first = validated(root, checkout, "0.png", "1.png")
    Image.new("RGB", (32, 32)).save(root / "0.png")
    second = validated(root, checkout, "0.png", "1.png")
    assert (second["0.png"] != first["0.png"], second["1.png"]) == (True, first["1.png"])
    strict = validated(root, checkout, "0.png", bounds=MediaBounds(pixels=100))
    assert "max_pixels 100" in strict["0.png"]


def test_remembered_fault_names_its_new_path(root: Path, checkout: Checkout) -> None:
    (root / "a.png").write_text("No picture.")
    (root / "b.png").write_text("No picture.")
    assert validated(root, checkout, "a.png")["a.png"].startswith("'a.png' is text")
    assert validated(root, checkout, "b.png")["b.png"].startswith("'b.png' is text")


MEASURE = """
import json, resource, sys
from pathlib import Path
from components.checkout import Checkout
from components.preferences.faults import RowError
from components.validation.media import MediaFolder
from tests.conftest import ROOT

root, checkout, path, kind = sys.argv[1:]
folder = MediaFolder(Path(root), checkout=Checkout(Path(checkout)))
reason = ""
try:
    folder.examine(path, kind)
except RowError as fault:
    reason = fault.reason
folder.close()
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({"reason": reason, "seconds": used.ru_utime + used.ru_stime, "gigabytes": used.ru_maxrss * 1024 / 1e9}))
"""


def progressive(side: int, scans: int) -> bytes:
    """A JPEG whose last scan is repeated."""
    stream = io.BytesIO()
    Image.new("L", (side, side), 128).save(stream, "JPEG", progressive=True)
    content = stream.getvalue()
    last = content.rfind(b"\xff\xda")
    return content[:-2] + content[last:-2] * (scans - content.count(b"\xff\xda")) + content[-2:]


def write_hostile(root: Path, name: str) -> None:
    if name == "pixels.png":
        (root / name).write_bytes(deflated(7990))
    elif name == "floats.tiff":
        Image.new("F", (7990, 7990), 0.5).save(root / name)
    elif name.endswith("scans.jpg"):
        (root / name).write_bytes(progressive(7990, int(name.partition("-")[0])))
    else:
        (root / name).mkdir()
        content = progressive(500, 64)
        for number in range(510):
            (root / name / f"{number}.jpg").write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"),
    [("pixels.png", "image"), ("floats.tiff", "image"), ("64-scans.jpg", "image"), ("9000-scans.jpg", "image"), ("clip", "video")],
)
def test_hostile_row_costs_little_measured_from_outside(root: Path, tmp_path: Path, name: str, kind: str) -> None:
    write_hostile(root, name)
    kind = "image" if "." in name else "video"
    command = [sys.executable, "-c", MEASURE, str(root), str(tmp_path / "checkout"), name, kind]
    spent = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)
    # One second for the medium, and the start of two processes: the second takes the first one's requests.
    assert spent["seconds"] < 1.0 + 2 * 0.4, spent
    assert spent["gigabytes"] < 1.0, spent
