import os
import unicodedata
from pathlib import Path

import pytest

from components.preferences.faults import RowError
from components.preferences.formats.pieces import Medium
from components.preferences.importing.library import Library, ending_of


@pytest.fixture
def library(source: Path, tmp_path: Path) -> Library:
    return Library(source, tmp_path / "target", tmp_path / "present")


@pytest.mark.parametrize(
    ("path", "kind", "reason"),
    [
        ("none.png", "media_missing", "does not exist"),
        ("../outside.png", "media_path", "leads out"),
        ("/etc/passwd", "media_path", "leads out"),
        ("link.png", "media_path", "leads out"),
        (".", "media_path", "leads out"),
        ("https://example.org/one.png", "media_path", "is an address"),
        ("a\0b", "media_path", "NUL"),
        ("pictures", "media_missing", "not a regular file"),
        ("pipe", "media_missing", "not a regular file"),
    ],
)
def test_path_that_is_no_picture_inside_is_refused(library: Library, source: Path, path: str, kind: str, reason: str) -> None:
    (source.parent / "outside.png").write_bytes(b"secret")
    (source / "link.png").symlink_to(source.parent / "outside.png")
    os.mkfifo(source / "pipe")
    with pytest.raises(RowError, match=reason) as caught:
        library.store(Medium("image", path), "image")
    assert (caught.value.kind, caught.value.field) == (kind, "image")
    assert not library.target.exists()


def test_absolute_path_inside_is_used(library: Library, source: Path) -> None:
    assert library.store(Medium("image", str(source / "one.png")), "image") == library.store(Medium("image", "one.png"), "image")


def test_accents_are_found_in_either_form(library: Library, source: Path) -> None:
    composed = unicodedata.normalize("NFC", "café #1 100%.png")
    (source / unicodedata.normalize("NFD", composed)).write_bytes((source / "one.png").read_bytes())
    assert library.store(Medium("image", composed), "image") == library.store(Medium("image", "one.png"), "image")


def test_frames_are_one_medium_and_strays_are_none(library: Library, source: Path) -> None:
    for name in ("Thumbs.db", ".DS_Store"):
        (source / "frames/walk" / name).write_bytes(b"x")
    name = library.store(Medium("video", "frames/walk"), "video")
    assert sorted(path.name for path in (library.target / name).iterdir()) == ["0.png", "1.png", "2.png"]


def test_frame_name_that_is_not_utf8_gets_number(library: Library, source: Path) -> None:
    bad = os.path.join(os.fsencode(source / "frames/walk"), b"9\xe9.png")  # noqa: PTH118 -- a name in bytes
    os.link(source / "one.png", bad)
    name = library.store(Medium("video", "frames/walk"), "video")
    assert sorted(path.name for path in (library.target / name).iterdir()) == ["0.png", "00004.png", "1.png", "2.png"]


def test_film_is_refused_with_command_for_frames(library: Library, source: Path) -> None:
    (source / "walk.mp4").write_bytes(b"film")
    with pytest.raises(RowError, match=r"is a film: make frames with: ffmpeg -i 'walk.mp4'"):
        library.store(Medium("video", "walk.mp4"), "video")
    with pytest.raises(RowError, match="not a folder of frames"):
        library.store(Medium("video", "one.png"), "video")


def test_own_names_stay_where_they_are_safe_and_free(source: Path, tmp_path: Path) -> None:
    library = Library(source, tmp_path / "target", tmp_path / "present", own_names=True)
    assert library.store(Medium("image", "short/one.png"), "image") == "short/one.png"
    assert library.store(Medium("image", "./mcq/two.png"), "image").startswith("media/")
    (tmp_path / "present").mkdir()
    (tmp_path / "present/three.png").write_bytes(b"another")
    assert library.store(Medium("image", "three.png"), "image").startswith("media/")


def test_ending_follows_bytes_not_names() -> None:
    assert ending_of(b"\xff\xd8\xff\xe0", ".png") == ".jpg"
    assert ending_of(b"RIFF\0\0\0\0WEBP", None) == ".webp"
    assert ending_of(b"<html>", ".JPG") == ".jpg"
    assert ending_of(b"??", ".bad name") == ".bin"
