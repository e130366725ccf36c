from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.errors import UserError
from components.operations.preconditions.rows import bundled_files_apart
from components.operations.preconditions.situation import Situation
from components.report.data import read_data
from components.report.record import Record
from components.report.render import page
from components.storage.bundled import bundled_files, mixture
from components.storage.data_version import data_state
from components.storage.own_data import begin
from tests.storage.test_data_version import bundled, clone, out, sync

OWN = '{"id": "own"}\n'


def begun(folder: Path) -> tuple[int, list[str]]:
    log: list[str] = []
    return begin(Checkout(folder), log.append), log


def present(folder: Path) -> set[str]:
    return {path.relative_to(folder / "data").as_posix() for path in (folder / "data").rglob("*") if path.is_file()}


def base_of(folder: Path) -> set[str]:
    return {name for name in bundled_files(Checkout(folder)) if name.startswith("base/")}


def test_bundled_files_leave_together_as_new_version(checkout: Path) -> None:
    before = bundled(checkout)
    names = set(bundled_files(Checkout(checkout)))
    removed, log = begun(checkout)
    assert removed == len(names - base_of(checkout)) > 2
    assert present(checkout) == base_of(checkout) | {"truth/NOTE.md"} != names
    assert "remote" not in out(checkout)
    assert any("as version" in line for line in log)
    assert bundled(checkout) == before  # the repository's own copy
    assert sync(checkout) == (out(checkout)["md5"], "")
    assert begun(checkout)[0] == 0


def test_fresh_clone_fetches_base_alone(checkout: Path, tmp_path: Path) -> None:
    fresh = clone(checkout, tmp_path / "fresh")
    (fresh / "data/preferences").mkdir(parents=True)
    (fresh / "data/preferences/data.jsonl").write_text(OWN)
    assert begun(fresh)[0] == 0
    assert present(fresh) == base_of(fresh) | {"truth/NOTE.md", "preferences/data.jsonl"}
    assert (fresh / "data/preferences/data.jsonl").read_text() == OWN
    assert sync(fresh) == (out(fresh)["md5"], "")


def test_own_and_edited_files_stay(checkout: Path) -> None:
    (checkout / "data/preferences/data.jsonl").write_text(OWN)
    (checkout / "data/preferences/mine.png").write_text("mine")
    _, log = begun(checkout)
    assert present(checkout) >= {"preferences/data.jsonl", "preferences/mine.png"}
    assert "preferences/heldout.jsonl" not in present(checkout)
    assert any("have been edited stay: preferences/data.jsonl" in line for line in log)


def test_own_removed_files_are_not_decided_by_the_way(checkout: Path) -> None:
    (checkout / "data/preferences/mine.png").write_text("mine")
    sync(checkout)
    (checkout / "data/preferences/mine.png").unlink()
    with pytest.raises(UserError, match=r"1 of your own files .*data/preferences/mine.png"):
        begun(checkout)


def test_removed_files_stay_removed(checkout: Path) -> None:
    sync(checkout)
    (checkout / "data/preferences/heldout.jsonl").unlink()
    shutil.rmtree(checkout / "data/truth", ignore_errors=True)
    state = data_state(Checkout(checkout))
    assert state.removed
    with pytest.raises(UserError, match=r"were removed \(data/preferences/heldout.jsonl.*--accept-data.*dvc checkout data.dvc"):
        sync(checkout)
    assert "preferences/heldout.jsonl" not in present(checkout)
    version, _ = sync(checkout, accept=True)
    assert "preferences/heldout.jsonl" not in present(checkout)
    assert sync(checkout) == (version, "")
    assert "preferences/heldout.jsonl" not in present(checkout)


def test_data_that_never_were_whole_are_fetched(checkout: Path, tmp_path: Path) -> None:
    fresh = clone(checkout, tmp_path / "fresh")
    sync(fresh)
    shutil.rmtree(fresh / "data")
    assert "fetching" in sync(fresh)[1]  # all of data/ is a lost folder, not an edit
    (fresh / ".mmalign/data-version").unlink()
    (fresh / "data/preferences/data.jsonl").unlink()
    assert "fetching 1 file " in sync(fresh)[1]


def test_bundled_files_beside_own_rows_are_named(checkout: Path) -> None:
    ours = Checkout(checkout)
    assert mixture(ours) is None
    (checkout / "data/preferences/data.jsonl").write_text(OWN)
    finding = bundled_files_apart(Situation(ours, None))  # type: ignore[arg-type]
    assert finding.state == "warning"
    assert "data/preferences/heldout.jsonl" in finding.text
    assert "judged by the bundled held-out rows" in finding.text
    assert "mmalign data new" in str(finding.cure)
    assert read_data(Record(ours, {}, {})).mixture == finding.text
    begun(checkout)
    assert mixture(ours) is None
    assert bundled_files_apart(Situation(ours, None)).state == "ok"  # type: ignore[arg-type]


def test_report_page_names_bundled_files(checkout: Path) -> None:
    assert "Bundled data in these metrics" not in page(Record(Checkout(checkout), {"stages": {}}, {}))
    (checkout / "data/preferences/data.jsonl").write_text(OWN)
    assert "Bundled data in these metrics" in page(Record(Checkout(checkout), {"stages": {}}, {}))
