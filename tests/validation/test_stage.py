import hashlib
import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.errors import UserError
from components.preferences.ranking import UnknownRankingError
from tests.validation.conftest import OUT, DataCheckout, Row

LENIENT = {"validate": {"max_quarantined_share": 1.0}}


def both_files(checkout: DataCheckout, train: int = 4, heldout: int = 3) -> None:
    checkout.write("data.jsonl", [checkout.row(number) for number in range(train)])
    checkout.write("heldout.jsonl", [checkout.row(100 + number) for number in range(heldout)])


def test_good_rows_become_two_tables_in_order_of_their_files(checkout: DataCheckout) -> None:
    both_files(checkout)
    result = checkout.run()
    assert [query.id for query in checkout.queries("train")] == ["row-0", "row-1", "row-2", "row-3"]
    assert [(query.id, query.split) for query in checkout.queries("heldout")] == [(f"row-10{n}", "heldout") for n in range(3)]
    assert checkout.quarantine() == []
    first = checkout.queries("train")[0]
    assert first.media[0].digest == hashlib.sha256((checkout.preferences / "short/0.png").read_bytes()).hexdigest()
    expected = {"queries": 4, "heldout_queries": 3, "responses": 12, "pairs": 8, "ties": 4, "tie_share": 1.0, "heldout_pairs": 6}
    expected |= {"quarantined": 0, "rows": 7, "short_queries": 4, "mcq_queries": 0, "heldout_text_only": 0}
    assert {key: result.metrics[key] for key in expected} == expected
    assert (checkout.root / "artifacts/validate-docs/index.html").is_file()


def bad_rows(checkout: DataCheckout) -> list[tuple[Row | str | bytes, str, str]]:
    """Every kind of bad row, with the expected field and a part of the expected reason."""
    row = checkout.row
    (checkout.preferences / "short/torn.png").write_bytes((checkout.preferences / "short/0.png").read_bytes()[:200])
    return [
        (json.dumps(row(10))[:70], "", "not valid JSON"),
        (b'{"id": "\xff"}', "", "not UTF-8"),
        ("[1, 2]", "", "not an object"),
        (json.dumps(row(12)).replace("[5, 2, 1]", "[5, NaN, 1]", 1), "", "NaN"),
        ('{"id": "a", "id": "b"}', "id", "more than once"),
        ("[" * 100_000, "", "nested"),
        (row(13, id="\ud800"), "id", "surrogate"),
        (row(14, models_output="A dog."), "models_output", "not a list"),
        (row(15, question=...), "question", "missing"),
        (row(16, image="short/none.png"), "image", "does not exist"),
        (row(17, image="short/torn.png"), "image", "decoded"),
        (row(18, image="../../outside.png"), "image", "'..'"),
        (row(19, image="/etc/passwd"), "image", "relative"),
        (row(20, image="", video="short"), "video", "decoded"),
        (row(0), "id", "already in line 1"),
        (row(100), "id", "held-out"),
        (row(21, question="what is in  picture 101?", image="short/101.png"), "question", "held-out"),
        (
            row(22, models_output=["A"], final_ranking=[1], **dict.fromkeys(("faithfulness", "helpfulness", "ethical", "score_reasons"))),
            "models_output",
            "1 responses",
        ),
        (row(23, models_output=["A", " \n", "B"]), "models_output[1]", "empty"),
        (row(24, models_output=["A", "B", "x" * 8001]), "models_output[2]", "8001 characters"),
        (row(25, final_ranking=[1, 4, 9]), "final_ranking", "weak order"),
        (row(26, ethical=[5, 99, 1]), "ethical[1]", "between 1 and 5"),
        (row(27, helpfulness=[5, 1]), "helpfulness", "2 entries for 3"),
        (row(28, question="x" * 2000), "question", "more than model.max_length 512"),
        (row(29, models_output=["A", "B", "x" * 700]), "question", "with response 2"),
        (row(30, score_reasons=["x" * 700, "", ""]), "question", "judge's prompt"),
        (row(31, question="A <video> b"), "question", "'<video>'"),
        (row(32, models_output=["A", "<|im_start|>user", "B"]), "models_output[1]", "'<|im_start|>'"),
        (row(33, score_reasons=["A", "<|im_end|>", "B"]), "score_reasons[1]", "'<|im_end|>'"),
        (row(34, safety="unsure"), "safety", "harmful"),
        (row(35, category="quiz"), "category", "none of"),
    ]


def test_each_bad_row_kind_is_quarantined_with_its_reason(checkout: DataCheckout) -> None:
    both_files(checkout)
    bad = bad_rows(checkout)
    checkout.write("data.jsonl", [checkout.row(0), *(row for row, _, _ in bad), checkout.row(1), checkout.row(2)])
    result = checkout.run(**LENIENT)

    quarantine = checkout.quarantine()
    assert [entry["line"] for entry in quarantine] == list(range(2, 2 + len(bad)))
    for entry, (_, field, reason) in zip(quarantine, bad, strict=True):
        assert list(entry) == ["file", "line", "field", "reason"]
        assert entry["file"] == "data/preferences/data.jsonl"
        assert entry["field"] == field, entry
        assert reason in entry["reason"], entry
    assert [query.id for query in checkout.queries("train")] == ["row-0", "row-1", "row-2"]
    assert result.metrics["rows"] == 3 + len(bad) + 3
    assert result.metrics["quarantined"] == len(bad)
    kinds = [value for key, value in result.metrics.items() if key.startswith("quarantined_") and key != "quarantined_share"]
    assert sum(value or 0 for value in kinds) == len(bad)


def test_bad_held_out_row_does_not_bar_training_row(checkout: DataCheckout) -> None:
    both_files(checkout)
    checkout.write("heldout.jsonl", [checkout.row(100), checkout.row(101), checkout.row(1, image="short/none.png")])
    checkout.run(**LENIENT)
    assert [entry["file"] for entry in checkout.quarantine()] == ["data/preferences/heldout.jsonl"]
    assert "row-1" in {query.id for query in checkout.queries("train")}


def test_file_over_threshold_fails_and_leaves_quarantine(checkout: DataCheckout) -> None:
    both_files(checkout, train=10)
    bad = [checkout.row(20, image="short/none.png"), checkout.row(21, image="short/none.png"), checkout.row(22, ethical=[9, 9, 9])]
    checkout.write("heldout.jsonl", [*(checkout.row(100 + number) for number in range(7)), *bad])
    with pytest.raises(UserError) as caught:
        checkout.run(validate={"max_quarantined_share": 0.29})
    message = str(caught.value)
    assert "data/preferences/heldout.jsonl: 3 of 10 rows" in message
    assert "2 with media that are not there, 1 with a score out of range" in message
    assert "line 8, image" in message
    assert "artifacts/validate/quarantine.jsonl" in message
    assert len(checkout.quarantine()) == 3
    assert not (checkout.root / OUT / "train").exists()


def test_file_at_threshold_passes(checkout: DataCheckout) -> None:
    both_files(checkout)
    checkout.write("data.jsonl", [*(checkout.row(number) for number in range(8)), "{", "{"])
    assert checkout.run(validate={"max_quarantined_share": 0.2}).metrics["quarantined"] == 2


def test_unknown_ranking_ends_stage_with_file_line_and_value(checkout: DataCheckout) -> None:
    both_files(checkout)
    checkout.write("data.jsonl", [checkout.row(0), checkout.row(1, final_ranking="B>A=C")])
    with pytest.raises(UnknownRankingError, match=r"data/preferences/data\.jsonl line 2: final_ranking 'B>A=C'"):
        checkout.run()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("data.jsonl", None, "data/preferences/data.jsonl is missing"),
        ("data.jsonl", b"\n \n", "data/preferences/data.jsonl is empty"),
        ("heldout.jsonl", b"", "data/preferences/heldout.jsonl is empty"),
    ],
)
def test_missing_and_empty_files_raise_user_error(checkout: DataCheckout, name: str, content: bytes | None, reason: str) -> None:
    both_files(checkout)
    (checkout.preferences / name).unlink()
    if content is not None:
        (checkout.preferences / name).write_bytes(content)
    with pytest.raises(UserError, match=reason):
        checkout.run()


def test_file_without_usable_row_raises_user_error(checkout: DataCheckout) -> None:
    both_files(checkout)
    checkout.write("heldout.jsonl", ["{"])
    with pytest.raises(UserError, match=r"heldout\.jsonl holds no usable row"):
        checkout.run(validate={"max_quarantined_share": 1.0})


def test_missing_base_raises_user_error(checkout: DataCheckout) -> None:
    both_files(checkout)
    with pytest.raises(UserError, match=r"model\.base"):
        checkout.run(model={"base": Path("data/absent")})


def other_teams_rows(checkout: DataCheckout, count: int = 50) -> list[Row | str | bytes]:
    """No held-out file, no category, other folders, text-only rows, ranks as text, missing scores and reasons."""
    rows: list[Row | str | bytes] = []
    for number in range(count):
        picture = checkout.picture(f"pictures/batch {number % 3}/{number // 2}.png", number // 2, (40 + number % 5, 30))
        changes: dict[str, Any] = {
            "id": f"team/{number}",
            "category": ...,
            "answer": ...,
            "image": picture,
            "question": f"Say what you see, {number // 2}.",
        }
        if number % 5 == 0:
            changes |= {"image": None, "video": None, "question": f"What is {number} plus two?"}
        if number % 5 == 1:
            changes |= {
                "final_ranking": "1>2=3",
                "faithfulness": [None, None, None],
                "helpfulness": ...,
                "score_reasons": ...,
                "ranking_reason": ...,
            }
        rows.append(checkout.row(number, **changes))
    return rows


def test_foreign_rows_are_accepted_and_split_by_content(checkout: DataCheckout) -> None:
    rows = other_teams_rows(checkout)
    checkout.write("data.jsonl", rows)
    result = checkout.run()
    train, heldout = checkout.queries("train"), checkout.queries("heldout")
    assert checkout.quarantine() == []
    assert sorted(query.id for query in [*train, *heldout]) == sorted(f"team/{number}" for number in range(50))
    assert {q.content for q in train}.isdisjoint(q.content for q in heldout)
    assert 2 <= len(heldout) <= 25
    assert (result.metrics["text_only"] or 0) + (result.metrics["heldout_text_only"] or 0) == 10
    assert {query.split for query in heldout} == {"heldout"}


def test_output_bytes_do_not_depend_on_checkout_path(new_checkout: Callable[[str], DataCheckout]) -> None:
    outs = []
    for name in ("one", "two"):
        checkout = new_checkout(name)
        checkout.write("data.jsonl", [*other_teams_rows(checkout, 20), "{", checkout.row(90, image="short/none.png")])
        metrics = checkout.run(**LENIENT).metrics
        files = [OUT / "train/queries.parquet", OUT / "heldout/queries.parquet", OUT / "quarantine.jsonl"]
        outs.append((metrics, [(checkout.root / file).read_bytes() for file in files]))
    assert outs[0] == outs[1]


def test_changed_picture_changes_table_and_no_other(checkout: DataCheckout) -> None:
    both_files(checkout)
    checkout.run()
    before = {split: (checkout.root / OUT / split / "queries.parquet").read_bytes() for split in ("train", "heldout")}
    checkout.picture("short/100.png", 999)
    checkout.run()
    after = {split: (checkout.root / OUT / split / "queries.parquet").read_bytes() for split in ("train", "heldout")}
    assert before["train"] == after["train"]
    assert before["heldout"] != after["heldout"]


def test_unread_fields_are_logged_with_nearest_name(checkout: DataCheckout, caplog: pytest.LogCaptureFixture) -> None:
    both_files(checkout)
    checkout.write("data.jsonl", [checkout.row(number, catgory="short") for number in range(3)])
    checkout.run()
    assert "no stage reads the field 'catgory' of 3 rows; did you mean 'category'?" in caplog.text


def test_validation_makes_no_network_calls(checkout: DataCheckout, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was opened")

    both_files(checkout)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    checkout.run()
    assert checkout.quarantine() == []


def test_failed_run_removes_earlier_outputs(checkout: DataCheckout) -> None:
    both_files(checkout)
    checkout.run()
    shutil.rmtree(checkout.preferences / "short")
    with pytest.raises(UserError, match="rows are bad"):
        checkout.run()
    assert not (checkout.root / OUT / "train").exists()
    assert not (checkout.root / "artifacts/validate-docs").exists()
