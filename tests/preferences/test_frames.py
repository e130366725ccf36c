from pathlib import Path

import pytest
from PIL import Image

from components.preferences.bounds import MediaError
from components.preferences.frames import frame_names, letterbox


def test_numbers_sort_by_value(tmp_path: Path) -> None:
    for name in ("1.png", "10.png", "2.png", "11.png", "a2.png", "a10.png", "02.png"):
        (tmp_path / name).touch()
    assert frame_names(tmp_path) == ["1.png", "02.png", "2.png", "10.png", "11.png", "a2.png", "a10.png"]


@pytest.mark.parametrize(
    "name", ["Thumbs.db", ".DS_Store", "desktop.ini", "._1.png", ".hidden.png", "1.txt", "captions.json", "__MACOSX", "sound.wav"]
)
def test_stray_file_is_no_frame(tmp_path: Path, name: str) -> None:
    for one in ("1.png", name):
        (tmp_path / one).touch()
    assert frame_names(tmp_path) == ["1.png"]


@pytest.mark.parametrize(("names", "limit"), [(4, 3), (5, 4)])
def test_folder_past_limit_is_refused(tmp_path: Path, names: int, limit: int) -> None:
    for number in range(names):
        (tmp_path / f"{number}.png").touch()
    assert len(frame_names(tmp_path, names)) == names
    with pytest.raises(MediaError, match=f"max_folder_frames {limit}"):
        frame_names(tmp_path, limit)


def test_stray_files_do_not_keep_listing_alive(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}.txt").touch()
    with pytest.raises(MediaError, match="max_folder_frames"):
        frame_names(tmp_path, 2)


@pytest.mark.parametrize(("size", "inner"), [((10, 10), (20, 20)), ((1, 150), (1, 20)), ((300, 3), (20, 1)), ((2, 2), (20, 20))])
def test_letterbox_keeps_proportions(size: tuple[int, int], inner: tuple[int, int]) -> None:
    boxed = letterbox(Image.new("RGB", size, "#ff0000"), (20, 20), "#ffffff")
    assert boxed.size == (20, 20)
    assert {color: count for count, color in boxed.getcolors() or []}[255, 0, 0] == inner[0] * inner[1]  # type: ignore[index]
