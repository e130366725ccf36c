import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.checkout import Checkout
from components.errors import UserError
from components.preferences.exporting import FILES, OTHER_FILE, export_preferences
from components.preferences.formats.detection import FORMATS
from components.preferences.formats.pieces import Medium, Pair, with_marks
from components.preferences.importing.report import ImportReport
from tests.preferences.conftest import read_target, write_lines
from tests.preferences.formats.samples import SAMPLES
from tests.preferences.formats.test_detection import EACH

Bring = Callable[..., ImportReport]


def pairs_of(name: str, rows: list[dict[str, Any]], folder: Path) -> set[tuple[Any, ...]]:
    """(prompt, media by content, chosen, rejected) of all pairs of the rows."""
    pairs = set()
    for row in rows:
        value = FORMATS[name].read(row)
        for pair in [value] if isinstance(value, Pair) else value.pairs():
            media = tuple(bytes_of(medium, folder) for medium in pair.prompt.media)
            pairs.add((with_marks(pair.prompt), media, pair.chosen, pair.rejected))
    return pairs


def bytes_of(medium: Medium, folder: Path) -> bytes:
    assert medium.path is not None
    path = folder / medium.path
    return path.read_bytes() if path.is_file() else b"".join(frame.read_bytes() for frame in sorted(path.iterdir()))


def exported(name: str, checkout: Checkout, out: Path) -> list[dict[str, Any]]:
    export_preferences(checkout, name, out)
    return [json.loads(line) for line in (out / FILES.get(name, OTHER_FILE)).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(("name", "number"), EACH)
def test_sample_goes_out_as_the_set_that_came_in(
    name: str, number: int, source: Path, checkout: Checkout, bring: Bring, tmp_path: Path
) -> None:
    rows = SAMPLES[name][number]
    bring(write_lines(source / "rows.jsonl", rows))
    back = exported(name, checkout, tmp_path / "out")
    assert pairs_of(name, back, tmp_path / "out") == pairs_of(name, rows, source) != set()


@pytest.mark.parametrize("name", ["mm_rlhf", "mm_rlhf_pairs"])
def test_release_files_go_out_without_loss(name: str, source: Path, checkout: Checkout, bring: Bring, tmp_path: Path) -> None:
    rows = [row for sample in SAMPLES[name][:2] for row in sample]
    bring(write_lines(source / FILES[name], rows))
    back = exported(name, checkout, tmp_path / "out")
    assert sorted(json.dumps(row, sort_keys=True) for row in back) == sorted(json.dumps(row, sort_keys=True) for row in rows)
    for row in rows:
        media = row.get("image") or row["video"]
        assert bytes_of(Medium("image", media), tmp_path / "out") == bytes_of(Medium("image", media), source)


def test_pairs_cross_from_format_to_format(source: Path, checkout: Checkout, bring: Bring, tmp_path: Path) -> None:
    bring(write_lines(source / "rows.jsonl", SAMPLES["llama_factory"][0]))
    expected = pairs_of("llama_factory", SAMPLES["llama_factory"][0], source)
    for name in ("trl", "swift"):
        assert pairs_of(name, exported(name, checkout, tmp_path / name), tmp_path / name) == expected


def test_what_format_cannot_hold_is_counted(source: Path, checkout: Checkout, bring: Bring, tmp_path: Path) -> None:
    bring(write_lines(source / "rows.jsonl", SAMPLES["llama_factory"][0]))
    report = export_preferences(checkout, "rlaif_v", tmp_path / "out")
    assert (report.queries, report.rows, report.left_out_count) == (2, 1, 1)
    assert any("3 turns" not in line and "data.jsonl:2" in line for line in report.lines())


def test_nothing_that_fits_writes_nothing(source: Path, checkout: Checkout, bring: Bring, tmp_path: Path) -> None:
    bring(write_lines(source / "rows.jsonl", SAMPLES["trl"][1]))
    with pytest.raises(UserError, match="nothing was exported"):
        export_preferences(checkout, "vlfeedback", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folder_with_files_is_not_written_into(source: Path, checkout: Checkout, bring: Bring, tmp_path: Path) -> None:
    bring(write_lines(source / "rows.jsonl", SAMPLES["trl"][1]))
    with pytest.raises(UserError, match="exists: name a new folder"):
        export_preferences(checkout, "trl", source)
    with pytest.raises(UserError, match=r"heldout\.jsonl is missing"):
        export_preferences(checkout, "trl", tmp_path / "out", "heldout.jsonl")


def test_description_for_llama_factory_lies_beside_rows(source: Path, checkout: Checkout, bring: Bring, tmp_path: Path) -> None:
    bring(write_lines(source / "rows.jsonl", SAMPLES["llama_factory"][0]))
    export_preferences(checkout, "llama_factory", tmp_path / "theirs-too")
    described = json.loads((tmp_path / "theirs-too/dataset_info.json").read_text())["theirs-too"]
    rows = [json.loads(line) for line in (tmp_path / "theirs-too" / described["file_name"]).read_text().splitlines()]
    assert described["ranking"]
    assert {described["columns"][name] for name in ("messages", "chosen", "rejected")} <= rows[0].keys()


def test_rows_come_back_from_their_own_export(source: Path, checkout: Checkout, bring: Bring, tmp_path: Path) -> None:
    bring(write_lines(source / "rows.jsonl", SAMPLES["swift"][0]))
    before = read_target(checkout)
    export_preferences(checkout, "mm_rlhf", tmp_path / "out")
    bring(tmp_path / "out", mode="replace")
    assert read_target(checkout) == before
