"""The folder of supervisor's socket where the checkout lies too deep: its name in /tmp can be foreseen by every user."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.errors import UserError
from components.operations.services import supervision


@pytest.fixture(name="deep")
def fixture_deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(supervision, "SHARED", tmp_path)
    return Checkout(tmp_path / ("d" * 120))


def test_socket_of_deep_checkout_lies_in_folder_of_its_user(deep: Checkout, tmp_path: Path) -> None:
    path = supervision.socket_file(deep)
    assert path.parent == tmp_path / f"mmalign-{os.getuid()}"
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert supervision.socket_file(deep) == path


@pytest.mark.parametrize("trap", ["open", "link", "stranger"])
def test_folder_that_another_user_may_have_made_is_refused(deep: Checkout, tmp_path: Path, trap: str) -> None:
    folder = tmp_path / f"mmalign-{os.getuid()}"
    if trap == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.mkdir(mode=0o700)
    if trap == "open":
        folder.chmod(0o777)
    if trap == "stranger":
        if os.getuid() != 0:
            pytest.skip("only root gives folders away")
        os.chown(folder, 45678, 45678)
    with pytest.raises(UserError, match="is no folder of this user alone"):
        supervision.socket_file(deep)
