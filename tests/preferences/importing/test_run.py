import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.checkout import Checkout
from components.errors import UserError
from components.preferences.formats.detection import FORMATS, AmbiguousFormat
from components.preferences.importing import run as run_module
from components.preferences.importing.report import ImportReport
from components.preferences.importing.run import Request, import_preferences
from tests.preferences.conftest import read_target, write_lines
from tests.preferences.formats.samples import AMBIGUOUS, SAMPLES
from tests.preferences.formats.test_detection import EACH
from tests.preferences.formats.test_formats import read

ROOT = Path(__file__).resolve().parents[3]
Bring = Callable[..., ImportReport]


def pair(chosen: str, rejected: str, question: str = "What is it?", image: str = "one.png") -> dict[str, Any]:
    return {"question": question, "chosen": chosen, "rejected": rejected, "image": image}


@pytest.mark.parametrize(("name", "number"), EACH)
def test_sample_comes_in_whole_by_detection(name: str, number: int, source: Path, checkout: Checkout, bring: Bring) -> None:
    rows = SAMPLES[name][number]
    report = bring(write_lines(source / "rows.jsonl", rows))
    assert (report.format, report.refused) == (name, {})
    assert report.rows == len(rows)
    assert report.pairs == report.pairs_written == len(read(name, rows))
    written = read_target(checkout)
    assert report.queries == len(written) == len({row["id"] for row in written})
    texts = {(better.text, worse.text) for row in written for better, worse in better_and_worse(row)}
    assert texts == {(pair.chosen, pair.rejected) for pair in read(name, rows)}
    for row in written:
        for field in ("image", "video"):
            for medium in [row.get(field)] if isinstance(row.get(field), str) else row.get(field) or []:
                assert not medium or (checkout.preferences / medium).exists()


def better_and_worse(row: dict[str, Any]) -> list[Any]:
    value = FORMATS["mm_rlhf"].read(row)
    answers = value.answers  # type: ignore[union-attr]
    return [(one, other) for one in answers for other in answers if one.rank < other.rank]


@pytest.mark.parametrize(("rows", "names"), AMBIGUOUS)
def test_rows_of_two_formats_are_asked_about_and_taken(rows: Any, names: Any, source: Path, checkout: Checkout, bring: Bring) -> None:
    path = write_lines(source / "rows.jsonl", rows)
    with pytest.raises(AmbiguousFormat):
        bring(path)
    assert not checkout.preferences.exists()
    assert bring(path, format=names[1]).format == names[1]


def test_release_rows_and_media_names_come_in_as_they_are(source: Path, checkout: Checkout, bring: Bring) -> None:
    rows = SAMPLES["mm_rlhf"][0]
    bring(write_lines(source / "data.jsonl", rows))
    assert read_target(checkout) == rows
    assert (checkout.preferences / "short/one.png").read_bytes() == (source / "short/one.png").read_bytes()
    assert len(list((checkout.preferences / "video/walk").iterdir())) == 3


def test_media_lie_once_under_names_by_content(source: Path, checkout: Checkout, bring: Bring) -> None:
    (source / "copy of one.PNG").write_bytes((source / "one.png").read_bytes())
    rows = [pair("a", "b"), pair("c", "d", "Which?", "copy of one.PNG"), pair("e", "f", "Why?", "./pictures/../one.png")]
    report = bring(write_lines(source / "rows.jsonl", rows))
    images = {row["image"] for row in read_target(checkout)}
    assert report.media == len(images) == 1
    assert re.fullmatch(r"media/[0-9a-f]{2}/[0-9a-f]{24}\.png", images.pop())


def test_pairs_of_equal_prompt_and_picture_are_one_query(source: Path, checkout: Checkout, bring: Bring) -> None:
    (source / "copy.png").write_bytes((source / "one.png").read_bytes())
    rows = [pair("a", "b"), pair("x", "y", "Which?"), pair("b", "c", image="copy.png"), pair("a", "c"), pair("a", "b", image="three.png")]
    bring(write_lines(source / "rows.jsonl", rows))
    assert [(row["models_output"], row["final_ranking"]) for row in read_target(checkout)] == [
        (["a", "b", "c"], [1, 2, 3]),
        (["x", "y"], [1, 2]),
        (["a", "b"], [1, 2]),
    ]


def test_bad_relations_are_reported_with_file_and_line(source: Path, checkout: Checkout, bring: Bring) -> None:
    rows = [
        *[pair(*two, "Missing?") for two in ("ab", "bc")],
        *[pair(*two, "Contradiction?") for two in ("ab", "ba")],
        *[pair(*two, "Cycle?") for two in ("ab", "bc", "ca")],
        *[pair(*two, "No ranking?") for two in ("ab", "ac", "db")],
        pair("same", "same"),
        pair("a", ""),
        pair("a", "b", image="none.png"),
        pair("a", "b", image="../outside.png"),
        pair("a", "b", image="http://example.org/a.png"),
        {"question": 3, "chosen": "a", "rejected": "b"},
    ]
    report = bring(write_lines(source / "rows.jsonl", rows))
    assert {kind: (value.count, value.places[0]["line"]) for kind, value in report.changed.items()} == {
        "missing_pair": (1, 1),
        "contradiction": (1, 4),
        "cycle": (1, 5),
        "no_single_ranking": (3, 8),
    }
    assert {kind: [one["line"] for one in value.places] for kind, value in report.refused.items()} == {
        "equal_answers": [11],
        "empty_response": [12],
        "media_missing": [13, 14],
        "media_path": [15],
        "other_format": [16],
    }
    assert (report.rows, report.queries, report.pairs, report.pairs_written) == (16, 4, 10, 6)
    places = [json.loads(line) for line in checkout.import_places.read_text().splitlines()]
    assert len(places) == 10
    assert all(one["file"] == "rows.jsonl" for one in places)
    text = "\n".join(report.lines())
    for words in ("rows.jsonl:4", "contradict each other", "6 of 16 rows refused", "none.png' does not exist", "is an address"):
        assert words in text


def test_second_import_says_what_exists_and_changes_nothing(source: Path, checkout: Checkout, bring: Bring) -> None:
    path = write_lines(source / "rows.jsonl", [pair("a", "b")])
    bring(path)
    before = (checkout.preferences / "data.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"data.jsonl exists: .*--append.*--replace.*mmalign data new"):
        bring(path)
    assert (checkout.preferences / "data.jsonl").read_bytes() == before


def test_append_adds_new_rows_and_leaves_present_ones(source: Path, checkout: Checkout, bring: Bring) -> None:
    bring(write_lines(source / "rows.jsonl", [pair("a", "b")]))
    first = read_target(checkout)
    report = bring(write_lines(source / "more.jsonl", [pair("a", "b"), pair("c", "d"), pair("e", "f", "Why?")]), mode="append")
    rows = read_target(checkout)
    assert rows[:1] == first
    assert [row["models_output"] for row in rows] == [["a", "b"], ["c", "d"], ["e", "f"]]
    assert len({row["id"] for row in rows}) == 3
    assert (report.queries, report.changed["present_row"].count) == (2, 1)


def test_replace_puts_rows_in_place_of_others(source: Path, checkout: Checkout, bring: Bring) -> None:
    bring(write_lines(source / "rows.jsonl", [pair("a", "b")]))
    bring(write_lines(source / "rows.jsonl", [pair("c", "d")]), mode="replace")
    assert [row["models_output"] for row in read_target(checkout)] == [["c", "d"]]


def test_heldout_rows_go_into_their_file(source: Path, checkout: Checkout, bring: Bring) -> None:
    bring(write_lines(source / "rows.jsonl", [pair("a", "b")]), target="heldout.jsonl")
    assert len(read_target(checkout, "heldout.jsonl")) == 1
    assert not (checkout.preferences / "data.jsonl").exists()


def test_fields_that_nothing_reads_are_counted(source: Path, bring: Bring) -> None:
    report = bring(write_lines(source / "rows.jsonl", [pair("a", "b") | {"votes": 3, "note": ""}, pair("c", "d", "Why?") | {"votes": 1}]))
    assert report.unread == {"votes": 2}
    assert any("votes (2)" in line for line in report.lines())


def test_nothing_usable_is_refused_with_reasons(source: Path, checkout: Checkout, bring: Bring) -> None:
    with pytest.raises(UserError, match=r"nothing was imported(.|\n)*none.png' does not exist"):
        bring(write_lines(source / "rows.jsonl", [pair("a", "b", image="none.png")]))
    assert not checkout.preferences.exists()


def test_unknown_ranking_ends_import_with_file_and_line(source: Path, bring: Bring) -> None:
    rows = [SAMPLES["mm_rlhf"][0][0] | {"final_ranking": {"best": 1}}]
    with pytest.raises(UserError, match=r"rows.jsonl line 1: final_ranking .* unknown encoding"):
        bring(write_lines(source / "rows.jsonl", rows))


def test_repeated_release_rows_are_counted(source: Path, checkout: Checkout, bring: Bring) -> None:
    row = SAMPLES["mm_rlhf"][0][0]
    report = bring(write_lines(source / "rows.jsonl", [row, row, row | {"question": "Another?"}]))
    assert {kind: value.count for kind, value in report.changed.items()} == {"repeated_row": 1, "repeated_id": 1}
    assert len(read_target(checkout)) == 2


def test_id_of_two_prompts_gets_number(source: Path, checkout: Checkout, bring: Bring) -> None:
    base = {"id": "q", "chosen": "a", "rejected": "b", "chosen_reason": "x", "rejected_reason": "y"}
    report = bring(write_lines(source / "rows.jsonl", [base | {"prompt": "One?"}, base | {"prompt": "Two?"}]))
    assert [row["id"] for row in read_target(checkout)] == ["q", "q-2"]
    assert report.changed["id_changed"].count == 1


def test_several_processes_give_same_rows(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "SMALL_BYTES", 0)
    monkeypatch.setattr(run_module, "CHUNK_ROWS", 7)
    monkeypatch.setattr(run_module, "GROUPS", 3)
    rows = [pair(*two, f"Question {n}?") for n in range(20) for two in ("ab", "ac", "bc")]
    path = write_lines(source / "rows.jsonl", rows)
    written = []
    for processes in (1, 2):
        checkout = Checkout(tmp_path / str(processes))
        import_preferences(Request(str(path), processes=processes), checkout, lambda _: None)
        written.append((checkout.preferences / "data.jsonl").read_bytes())
    assert written[0] == written[1]
    assert written[0].count(b"\n") == 20


KILLED = """
import os, signal, sys
from pathlib import Path
from components.checkout import Checkout
from components.preferences.importing import run, store
run.CHUNK_ROWS, store.COMMIT_CHUNKS = 10, 1
add = store.Store.add
def killing(self, converted):
    add(self, converted)
    if self.chunks == 3:
        os.kill(os.getpid(), signal.SIGKILL)
store.Store.add = killing
run.import_preferences(run.Request(sys.argv[1]), Checkout(Path(sys.argv[2])), print)
"""


def test_killed_import_resumes_and_gives_same_rows(
    source: Path, checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [pair(*two, f"Question {n}?") for n in range(20) for two in ("ab", "ac", "bc")] + [pair("a", "b", image="none.png")]
    path = write_lines(source / "rows.jsonl", rows)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path), str(checkout.root)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not checkout.preferences.exists()
    log: list[str] = []
    monkeypatch.setattr(run_module, "CHUNK_ROWS", 10)
    report = import_preferences(Request(str(path)), checkout, log.append)
    assert "resuming the import that stopped after 30 rows" in log
    other = Checkout(tmp_path / "other")
    whole = import_preferences(Request(str(path)), other, lambda _: None)
    assert (checkout.preferences / "data.jsonl").read_bytes() == (other.preferences / "data.jsonl").read_bytes()
    assert report.as_json() == whole.as_json()
    assert not any(checkout.imports.iterdir())


def test_changed_source_starts_over(source: Path, checkout: Checkout) -> None:
    path = write_lines(source / "rows.jsonl", [pair(*two, f"Question {n}?") for n in range(20) for two in ("ab", "ac", "bc")])
    subprocess.run([sys.executable, "-c", KILLED, str(path), str(checkout.root)], cwd=ROOT, check=False)
    write_lines(path, [pair("x", "y")])
    log: list[str] = []
    report = import_preferences(Request(str(path)), checkout, log.append)
    assert any("starts over" in line for line in log)
    assert (report.rows, [row["models_output"] for row in read_target(checkout)]) == (1, [["x", "y"]])


def test_second_import_at_same_time_is_refused(source: Path, checkout: Checkout, bring: Bring) -> None:
    from components.processes.guard import try_lock

    lock = try_lock(checkout.locks / "import.lock")
    assert lock is not None
    with pytest.raises(UserError, match="another import runs here: process"):
        bring(write_lines(source / "rows.jsonl", [pair("a", "b")]))
    lock.release()


@pytest.mark.slow
def test_processes_end_with_killed_import(source: Path, checkout: Checkout) -> None:
    script = KILLED.replace("run.CHUNK_ROWS", "run.SMALL_BYTES, run.CHUNK_ROWS").replace("= 10, 1", "= 0, 10, 1")
    path = write_lines(source / "rows.jsonl", [pair(*two, f"Question {n}?") for n in range(40) for two in ("ab", "ac", "bc")])
    process = subprocess.Popen([sys.executable, "-c", script, str(path), str(checkout.root)], cwd=ROOT, start_new_session=True)
    assert process.wait(timeout=60) == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("a process of the import lives on")
