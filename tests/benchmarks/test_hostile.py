"""The benchmark of strangers' files: kinds have probes, what is through is counted, its figures in SECURITY.md are within their bounds."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import _hostile_probes as probes
from benchmarks import _poisons, hostile
from benchmarks._hostile_probes import Places
from benchmarks._hostile_run import Ended

ROOT = Path(__file__).resolve().parents[2]


def test_every_kind_has_a_probe(tmp_path: Path) -> None:
    listed = probes.read_probes(probes.FOLDER, Places(tmp_path))
    assert {probe.kind for probe in listed} == set(probes.KINDS)
    assert sum(probe.form == "checkpoints" for probe in listed) >= hostile.LEAST["checkpoints_tried"]
    assert max(Counter((probe.form, probe.name) for probe in listed).values()) == 1
    assert all(probe.expect in {"refused", "used", "any", "silent"} for probe in listed)


def test_what_commands_write_is_counted(tmp_path: Path) -> None:
    counts = hostile.Counts(Places(tmp_path))
    counts.read("clean", Ended(2, "refused: caf\u00e9\n", ""))
    assert not counts.numbers
    for text in ("\x1b[31m", "\x9b31m", "\u202e", "Traceback (most recent call last)\n", hostile.SECRETS["HF_TOKEN"]):
        counts.read("one", Ended(2, "", text))
    assert counts.numbers == {"terminal_escapes": 3, "traces": 1, "secrets_found": 1}


def test_leftovers_of_a_probe_are_counted(tmp_path: Path, tiny_base: Path) -> None:
    measured = hostile.Measurement(tmp_path / "work", tiny_base)
    measured.leftovers()
    assert not measured.counts.numbers
    (measured.places.ran / "code").touch()
    (measured.places.outside / "escaped.txt").touch()
    (tmp_path / "work/fetched").mkdir()
    (tmp_path / "work/fetched/README.md").write_text(hostile.OUTSIDE_SECRET)
    measured.leftovers()
    assert measured.counts.numbers == {"commands_run": 1, "paths_escaped": 3}


def test_probe_of_a_stranger_is_read(tmp_path: Path, tiny_base: Path) -> None:
    values = {
        "name": "mine",
        "kind": "links",
        "reason": "a|b",
        "changes": [["link", "x", "{outside}/secret.txt"], ["set", "config.json", "a.b", 1]],
    }
    (tmp_path / "checkpoints-mine.jsonl").write_text(json.dumps(values) + "\n")
    (probe,) = probes.read_probes(tmp_path, Places(tmp_path))
    folder = probes.write_checkpoint(probe, tiny_base, tmp_path / "made")
    assert (folder / "x").readlink() == tmp_path / "outside/secret.txt"
    assert json.loads((folder / "config.json").read_text())["a"] == {"b": 1}
    assert "a" not in json.loads((tiny_base / "config.json").read_text())
    assert (probe.expect, probe.says("b"), probe.says("c")) == ("refused", True, False)


def test_table_is_replaced_in_its_place(tmp_path: Path) -> None:
    page = tmp_path / "SECURITY.md"
    page.write_text(f"before\n{hostile.BEGIN}\nold\n{hostile.END}\nafter\n")
    report = {
        "rows_tried": 209,
        "checkpoints_tried": 9,
        **dict.fromkeys(hostile.ZERO, 0),
        "good_refused": 0,
        "kinds": {"rows": 209},
        "date": "2026-01-02",
    }
    hostile.write_table(report, page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| `rows_tried` | 200 | 209 |" in text
    assert "old" not in text


def test_figures_of_the_page_are_within_bounds() -> None:
    page = (ROOT / "SECURITY.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \|$", page.partition(hostile.BEGIN)[2].partition(hostile.END)[0], re.MULTILINE)
    for name, bound, counted in rows:
        assert (int(counted) >= int(bound)) if name in hostile.LEAST else counted == "0", name


@pytest.mark.slow
def test_whole_benchmark_lets_nothing_through(base: Path) -> None:
    report = hostile.measure(base, [], servers=False)
    assert {name: report[name] for name in hostile.ZERO} == dict.fromkeys(hostile.ZERO, 0)
    assert (report["kinds_without_probe"], report["good_refused"]) == ([], 0)


@pytest.mark.parametrize(
    ("file", "values", "reason"),
    [
        ("checkpoints.jsonl", {"name": "a", "kind": "link", "changes": []}, "has the kind link"),
        ("checkpoints.jsonl", {"name": "a", "kind": "links"}, "lacks changes"),
        ("checkpoints.jsonl", {"name": "a", "kind": "links", "changes": [["lnk", "x", "y"]]}, "has the change"),
        ("checkpoints.jsonl", {"name": "../a", "kind": "links", "changes": []}, "without a slash"),
        ("commands.jsonl", {"name": "a", "kind": "text", "command": ["plan"]}, "lacks files"),
        ("archives.jsonl", {"name": "a", "kind": "archive", "members": [], "expect": "refuse"}, "expects refuse"),
        ("rows.jsonl", {"name": "a", "field": "id", "reason": ""}, "lacks what to write"),
        ("mine.jsonl", {"name": "a"}, "is of no form"),
        ("rows.jsonl", ["a"], "lacks name, field, reason"),
    ],
)
def test_probe_with_a_mistake_is_named(tmp_path: Path, file: str, values: object, reason: str) -> None:
    (tmp_path / file).write_text(json.dumps(values) + "\n")
    with pytest.raises(ValueError, match=reason):
        probes.check(tmp_path)


def test_folder_without_probes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no probes"):
        probes.check(tmp_path / "nothing")


def test_bundled_probes_have_no_mistake() -> None:
    probes.check(probes.FOLDER)


def test_rows_beside_other_probes_are_read_alone(tmp_path: Path) -> None:
    (tmp_path / "rows-mine.jsonl").write_text(json.dumps({"name": "a", "field": "id", "reason": "", "row": {"id": 7.5}}) + "\n")
    (tmp_path / "commands-mine.jsonl").write_text(json.dumps({"name": "b", "kind": "text", "command": ["plan"], "files": {}}) + "\n")
    probes.check(tmp_path)
    assert [poison.name for poison in _poisons.read_poisons(tmp_path, probes.ROWS)] == ["a"]
    assert [probe.name for probe in probes.read_probes(tmp_path, Places(tmp_path))] == ["b"]
