"""Begins a team's own data: bundled rows, media and ground truth leave data/ together, as a new version of the data.

The base model stays, and so does every file that somebody has added or edited. The bundled version stays in the repository:
`git checkout data.dvc && dvc checkout data.dvc` brings it back.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from components.checkout import Checkout
from components.errors import UserError
from components.storage.bundled import BASE, bundled_files, bundled_present
from components.storage.data_version import DATA_FILE, data_state, fetch_folder, make_ground_truth_folder, sync_data


def begin(checkout: Checkout, log: Callable[[str], None]) -> int:
    """Remove the bundled files and commit; the number of files removed. A second call removes nothing.

    Raises UserError where files that are not bundled were removed: whether they shall go is not for this command to say.
    """
    bundled = bundled_files(checkout)
    state = data_state(checkout)
    own = [name for name in state.missing if name.removeprefix("data/") not in bundled]
    if own:
        raise UserError(
            f"{len(own)} of your own files of data/ were removed (the first: {own[0]}): put them back with `dvc checkout data.dvc`, "
            "or make that a version first with `mmalign run --accept-data`"
        )
    if any(name.startswith(f"data/{BASE}") for name in state.missing):
        fetch_folder(checkout, f"data/{BASE}".rstrip("/"), log)
    names = bundled_present(checkout)
    for name in names:
        (checkout.data / name).unlink()
    _remove_empty_folders(checkout.data)
    checkout.preferences.mkdir(parents=True, exist_ok=True)
    edited = sorted(name for name in bundled if not name.startswith(BASE) and (checkout.data / name).is_file())
    if edited:
        log(f"{len(edited)} files that were bundled and have been edited stay: {', '.join(edited[:3])}{', ...' if len(edited) > 3 else ''}")
    if (checkout.root / DATA_FILE).is_file():
        make_ground_truth_folder(checkout)
        sync_data(checkout, accept=True, log=log)
    return len(names)


def _remove_empty_folders(folder: Path) -> None:
    for path in sorted((path for path in folder.rglob("*") if path.is_dir()), key=lambda path: -len(path.parts)):
        if not any(path.iterdir()):
            path.rmdir()
