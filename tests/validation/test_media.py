import os
import shutil
import struct
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from components.files import digest_file
from components.preferences.faults import RowError
from components.validation.media import MediaFolder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "preferences"
    (root / "video/clip").mkdir(parents=True)
    (root / "video/empty").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (64, 48, 3), dtype=np.uint8)
    for name in ("good.png", "good.jpg", "video/clip/0.png", "video/clip/1.png"):
        Image.fromarray(noise).save(root / name)
    Image.fromarray(noise).save(tmp_path / "outside.png")
    return root


def fault(folder: Path, path: str, kind: Literal["image", "video"] = "image") -> RowError:
    with pytest.raises(RowError) as caught:
        MediaFolder(folder).examine(path, kind)
    return caught.value


def test_image_is_identified_by_bytes_and_size(folder: Path) -> None:
    medium = MediaFolder(folder).examine("good.png", "image")
    assert medium.digest == digest_file(folder / "good.png")
    assert (medium.width, medium.height, medium.frames) == (48, 64, 1)


def test_video_digest_covers_frames_and_not_hidden_files(folder: Path) -> None:
    before = MediaFolder(folder).examine("video/clip", "video")
    (folder / "video/clip/.DS_Store").write_bytes(b"x")
    assert MediaFolder(folder).examine("video/clip", "video") == before
    Image.new("RGB", (48, 64)).save(folder / "video/clip/1.png")
    after = MediaFolder(folder).examine("video/clip", "video")
    assert (before.frames, after.frames) == (2, 2)
    assert before.digest != after.digest


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("absent.png", "media_missing"),
        ("video/clip", "media_missing"),
        ("good.png/x.png", "media_missing"),
        ("x" * 5000, "media_missing"),
        ("../outside.png", "media_path"),
        ("video/../../outside.png", "media_path"),
        ("..\\outside.png", "media_path"),
        ("/etc/passwd", "media_path"),
        ("C:\\pictures\\x.png", "media_path"),
        ("file:///etc/passwd", "media_path"),
        ("https://example.org/x.png", "media_path"),
        ("good\0.png", "media_path"),
        (".", "media_path"),
    ],
)
def test_paths_stay_inside_and_exist(folder: Path, path: str, kind: str) -> None:
    assert fault(folder, path).kind == kind


def test_link_may_point_inside_and_not_out(folder: Path) -> None:
    (folder / "inside.png").symlink_to(folder / "good.png")
    (folder / "out.png").symlink_to(folder.parent / "outside.png")
    (folder / "circle.png").symlink_to(folder / "circle.png")
    assert MediaFolder(folder).examine("inside.png", "image").width == 48
    assert fault(folder, "out.png").kind == "media_path"
    assert fault(folder, "circle.png").kind == "media_missing"


def test_frame_that_links_out_is_refused(folder: Path) -> None:
    (folder / "video/clip/2.png").symlink_to(folder.parent / "outside.png")
    assert fault(folder, "video/clip", "video").kind == "media_path"


def test_preferences_folder_may_itself_be_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    assert MediaFolder(tmp_path / "link").examine("good.png", "image").width == 48


def test_pipe_is_refused_without_waiting(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    assert "regular file" in fault(folder, "pipe.png").reason


@pytest.mark.parametrize("name", ["good.png", "good.jpg"])
def test_truncated_image_is_refused(folder: Path, name: str) -> None:
    raw = (folder / name).read_bytes()
    (folder / name).write_bytes(raw[: len(raw) * 2 // 3])
    assert fault(folder, name).kind == "media_undecodable"


@pytest.mark.parametrize("content", [b"", b"not an image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"<svg/>"])
def test_non_image_is_refused(folder: Path, content: bytes) -> None:
    (folder / "x.png").write_bytes(content)
    assert fault(folder, "x.png").kind == "media_undecodable"


@pytest.mark.parametrize("side", [9_000, 60_000])
def test_decompression_bomb_is_not_unpacked(folder: Path, side: int) -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    (folder / "bomb.png").write_bytes(content)
    assert fault(folder, "bomb.png").kind == "media_too_large"


def test_untileable_strip_is_refused(folder: Path) -> None:
    Image.new("RGB", (1, 500)).save(folder / "strip.png")
    assert "500" in fault(folder, "strip.png").reason


@pytest.mark.parametrize(
    ("path", "reason"), [("video/empty", "no frames"), ("good.png", "not a folder"), ("video/absent", "does not exist")]
)
def test_video_is_folder_of_frames(folder: Path, path: str, reason: str) -> None:
    medium = fault(folder, path, "video")
    assert reason in medium.reason
    assert medium.field == "video"


def test_one_bad_frame_refuses_video_and_is_named(folder: Path) -> None:
    (folder / "video/clip/1.png").write_bytes(b"x")
    assert "video/clip/1.png" in fault(folder, "video/clip", "video").reason


def test_reasons_do_not_depend_on_checkout_path(folder: Path, tmp_path: Path) -> None:
    (folder / "x.png").write_bytes(b"x")
    shutil.copytree(folder, tmp_path / "elsewhere/preferences")
    assert fault(folder, "x.png").reason == fault(tmp_path / "elsewhere/preferences", "x.png").reason
