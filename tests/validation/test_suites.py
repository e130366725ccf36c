import html
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.config.settings import load_settings
from components.preferences.record import Medium, Query, Response, Turn
from components.validation.suites import check_tables
from components.validation.tables import query_table, response_table
from tests.conftest import ROOT
from tests.tiny import rephrased

RESPONSES = (
    Response("The best answer.", 1, 5, 5, 5, "Right."),
    Response("A worse answer, a longer one.", 2, 2, 2, 5, "Wrong."),
    Response("Bad.", 2, 1, 1, 1, "Wrong."),
)


STRICT = (*RESPONSES[:2], replace(RESPONSES[2], rank=3))


def good() -> list[Query]:
    """Ten queries a split, every category in both, half of them with a tie."""
    return [
        Query.single(
            f"{split}-{number}",
            category,
            f"{split} {number}?",
            RESPONSES if number % 2 else STRICT,
            Medium("x.png", "image", "a" * 64),
            split=split,
        )
        for split in ("train", "heldout")
        for number, category in enumerate(("mcq", "long", "short", "safety", "video") * 2)
    ]


def unmet(queries: list[Query], folder: Path) -> dict[str, str]:
    findings = check_tables(query_table(queries), response_table(queries), load_settings(ROOT / "params.yaml").validate_, folder / "docs")
    return {finding.expected: finding.severity for finding in findings}


def test_good_tables_pass_and_pages_are_written(tmp_path: Path) -> None:
    assert unmet(good(), tmp_path) == {}
    pages = [path.relative_to(tmp_path / "docs").parts[0] for path in (tmp_path / "docs").rglob("*.html")]
    assert sorted(pages) == ["expectations", "expectations", "index.html", "validations", "validations"]
    links = re.findall(r'<li><a href="([^"]+)">([^<]+)</a>', (tmp_path / "docs/index.html").read_text())
    assert [text for _, text in links] == [
        "expectations: queries",
        "expectations: responses",
        "validations: queries",
        "validations: responses",
    ]
    assert all((tmp_path / "docs" / link).is_file() for link, _ in links)


def test_pages_load_nothing_from_a_network(tmp_path: Path) -> None:
    unmet(good(), tmp_path)
    for page in (tmp_path / "docs").rglob("*.html"):
        text = page.read_text()
        assert re.search(r"<head>\s*<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none';", text)
        assert not re.search(r"<(?!a\b)\w+\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//", text), page
        assert not re.search(r"<script\b[^>]*\bsrc=|@import|url\([\"']?http", text), page


FAULTS: dict[str, dict[str, Any]] = {
    "ids are unique": {"id": "train-9"},
    "no id stands in both splits": {"id": "heldout-1"},
    "no media and prompt stand in both splits": {"turns": good()[-9].turns},
    "categories are known": {"category": "quiz"},
    "safety labels are known": {"safety": "unsure"},
    "media carry their sha256": {"media": (Medium("mcq/0.png", "image", "short"),)},
    "prompts are not empty": {"turns": (Turn("user", ("", "")),)},
    "queries have enough responses": {"responses": RESPONSES[:1]},
    "ranks begin at 1": {"responses": (*RESPONSES, Response("x", 0))},
    "no rank exceeds the number of responses": {"responses": (*RESPONSES, Response("x", 5))},
    "responses are neither empty nor over-long": {"responses": (*RESPONSES, Response("", 4))},
    "faithfulness is between 1 and 5": {"responses": (*RESPONSES, Response("x", 4, faithfulness=99))},
    "helpfulness is between 1 and 5": {"responses": (*RESPONSES, Response("x", 4, helpfulness=0))},
    "ethics is between 1 and 5": {"responses": (*RESPONSES, Response("x", 4, ethics=0.5))},
}


def test_broken_required_expectation_is_critical(tmp_path: Path) -> None:
    spoilt = [rephrased(query, f"Spoilt {number}?", id=f"spoilt-{number}") for number, query in enumerate(good() + good())]
    queries = [*good(), *(replace(query, **values) for query, values in zip(spoilt, FAULTS.values(), strict=False))]
    findings = unmet(queries, tmp_path)
    assert {expected for expected, severity in findings.items() if severity == "critical"} == set(FAULTS) | {
        "a response stands once in a query"
    }


def test_table_of_one_split_is_critical(tmp_path: Path) -> None:
    assert unmet([query for query in good() if query.split == "train"], tmp_path)["both splits have queries"] == "critical"


def test_unusual_table_is_a_warning(tmp_path: Path) -> None:
    tied = (replace(RESPONSES[0], rank=1), *(replace(response, rank=1, critique=None) for response in RESPONSES[1:]))
    assert unmet([replace(query, responses=tied) for query in good()], tmp_path) == {
        "at least 80 % of queries have a pair of different ranks": "warning",
        "at least 90 % of responses have a reason to learn critiques from": "warning",
        "the best answer is the longest in at most 80 % of queries": "warning",
        "some queries hold a tie": "info",
    }


def test_rows_without_any_critique_need_none(tmp_path: Path) -> None:
    bare = [replace(query, responses=tuple(replace(response, critique=None) for response in query.responses)) for query in good()]
    assert unmet(bare, tmp_path) == {}


def test_category_missing_from_one_split_is_a_warning(tmp_path: Path) -> None:
    queries = [query for query in good() if (query.split, query.category) != ("heldout", "video")]
    assert unmet(queries, tmp_path) == {"every category stands in both splits": "warning"}


def test_hostile_text_does_not_enter_pages(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    responses = (Response(hostile, 1, critique=hostile), Response("", 2))
    unmet([rephrased(query, hostile, id=hostile, responses=responses, source=hostile) for query in good()], tmp_path)
    pages = list((tmp_path / "docs").rglob("*.html"))
    assert pages
    assert all(hostile not in page.read_text() for page in pages)
    assert any(html.escape(hostile) in page.read_text() for page in pages)
