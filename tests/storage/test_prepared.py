import os
import threading
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.storage.prepared import RETAINED, prepared


def test_folder_is_made_once_for_all_that_ask(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "x").write_text("x")

    threads = [threading.Thread(target=prepared, args=(Checkout(tmp_path), "kind", "key", make)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert (prepared(Checkout(tmp_path), "kind", "key", make) / "x").read_text() == "x"


def test_folder_that_failed_half_way_is_made_again(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        prepared(Checkout(tmp_path), "kind", "key", fail)
    folder = prepared(Checkout(tmp_path), "kind", "key", lambda fresh: fresh.joinpath("whole").touch())
    assert [path.name for path in folder.iterdir()] == ["whole"]


def test_folders_not_used_for_longest_are_removed(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    for number in range(RETAINED):
        os.utime(prepared(checkout, "kind", str(number), lambda _: None), (number, number))
    prepared(checkout, "kind", "0", lambda _: pytest.fail("it is there"))  # used now
    prepared(checkout, "kind", "new", lambda _: None)
    names = {path.name for path in checkout.cache("kind").iterdir() if path.is_dir()}
    assert names == {"0", "new", *map(str, range(2, RETAINED))}
