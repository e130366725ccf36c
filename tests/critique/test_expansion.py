"""Expansion of reasons: what is asked, which checks an answer must pass, what is written, and what reward training reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.critique import expansion_prompt
from components.critique.expansion import Expander, Reason, check, scored_verdict
from components.critique.languages import Language, differs, language_of
from components.endpoints.request import Answer, Refusal
from components.errors import UserError
from components.preferences.expansions import Expansion, matching, read_expansions, source_digest
from components.preferences.record import Medium, Query, Response
from components.preferences.release import row_from_query
from tests.checkout import ROOT, mmalign
from tests.faulty_endpoint import Endpoint, serving
from tests.tiny import save_checkout

REASONS = ["It is right about the color.", "Wrong animal."]
REVIEW = "The answer is right about the color, and the picture shows it in the middle."


def query(number: int, reasons: list[str], scores: tuple[float, float] = (5.0, 1.0)) -> Query:
    responses = tuple(
        Response(f"Text {n}.", n + 1, score, score, score, reason) for n, (reason, score) in enumerate(zip(reasons, scores, strict=True))
    )
    return Query.single(f"q{number}", "short", f"What is it, {number}?", responses, Medium("square.png", "image"))


def reply(prompt: str) -> str:
    return f"{REVIEW}\nVERDICT: {'bad' if 'Wrong' in prompt else 'good'}"


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    server.answer = reply
    with serving(server):
        yield server


@pytest.fixture
def checkout(tmp_path: Path, tiny_base: Path, tiny_media: Path, endpoint: Endpoint) -> Checkout:
    server = {"url": endpoint.url, "model": "gpt", "key": "", "input_price": 1.0, "output_price": 2.0}
    save_checkout(tmp_path, tiny_base, tiny_media, endpoint={"expansion": server})
    write_rows(Checkout(tmp_path), [query(number, REASONS) for number in range(3)])
    for name in ("dvc.yaml", "data.dvc"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    return Checkout(tmp_path)


def write_rows(checkout: Checkout, queries: list[Query]) -> None:
    lines = [json.dumps(row_from_query(row)) for row in queries]
    (checkout.preferences / "data.jsonl").write_text("\n".join([*lines, "not JSON", '{"id": "x"}', "[" * 100_000, ""]))


def test_damaged_file_of_expansions_is_refused(tmp_path: Path) -> None:
    for line in ("{", "7", '{"id": "a"}', "[" * 100_000):
        (tmp_path / "expanded.jsonl").write_text(line)
        with pytest.raises(UserError, match="line 1 is no expansion"):
            read_expansions(tmp_path / "expanded.jsonl")


def test_reasons_are_expanded_and_written_with_their_origin(checkout: Checkout, endpoint: Endpoint) -> None:
    result = Expander(checkout.settings(), checkout).expand()
    assert not result.quarantined
    expansions = read_expansions(checkout.preferences / "expanded.jsonl")
    assert list(expansions) == [(f"q{number}", index) for number in range(3) for index in range(2)]
    row = query(1, REASONS)
    assert expansions["q1", 1] == Expansion(
        "q1", 1, source_digest(row, row.responses[1]), REVIEW, expansion_prompt.VERSION, expansion_prompt.DIGEST, "gpt"
    )
    body = next(body for body in endpoint.bodies if "What is it, 1?" in json.dumps(body) and "Wrong animal." in json.dumps(body))
    system, user = body["messages"]
    assert system == {"role": "system", "content": expansion_prompt.SYSTEM}
    picture, text = user["content"]
    assert picture["image_url"]["url"].startswith("data:image/png;base64,")
    assert text["text"] == "Question:\nWhat is it, 1?\n\nAnswer:\nText 1.\n\nThe reviewer's note on the answer:\nWrong animal."
    assert not any(score in text["text"] + system["content"] for score in ("1.0", "5.0")), "the scores are not shown"


def test_second_expansion_asks_for_new_reasons_alone(checkout: Checkout, endpoint: Endpoint) -> None:
    Expander(checkout.settings(), checkout).expand()
    before = (checkout.preferences / "expanded.jsonl").read_bytes()
    Expander(checkout.settings(), checkout).expand()
    assert endpoint.requests == 6
    assert (checkout.preferences / "expanded.jsonl").read_bytes() == before
    write_rows(checkout, [query(0, REASONS), query(1, ["It is right.", "Wrong animal."])])
    expander = Expander(checkout.settings(), checkout)
    assert expander.estimate().texts == 1
    expander.expand()
    assert endpoint.requests == 7


def test_edited_reason_has_no_expansion(checkout: Checkout) -> None:
    Expander(checkout.settings(), checkout).expand()
    expansions = read_expansions(checkout.preferences / "expanded.jsonl")
    row = query(0, REASONS)
    edited = replace(row, responses=(replace(row.responses[0], critique="It is right about all."), row.responses[1]))
    assert matching([row], expansions) == {("q0", 0): REVIEW, ("q0", 1): REVIEW}
    assert matching([edited], expansions) == {("q0", 1): REVIEW}


ENGLISH = Language("LATIN", "en")
GERMAN = "Die Antwort ist richtig und nennt die Farbe, aber sie ist nicht mit dem Bild zu belegen."


@pytest.mark.parametrize(
    ("reason", "score", "text", "finish", "failed"),
    [
        ("It is right about the color.", 5.0, f"{REVIEW}\nVERDICT: good", "stop", None),
        ("It is right about the color.", 5.0, f"{REVIEW}\n\n**Verdict:** Mixed.\n", "stop", None),
        ("It is right about the color.", 5.0, f"{REVIEW}\nVERDICT: bad", "stop", "against_the_score"),
        ("Wrong animal.", 1.0, f"{REVIEW}\nVERDICT: good", "stop", "against_the_score"),
        ("Wrong animal.", 3.0, f"{REVIEW}\nVERDICT: good", "stop", None),
        ("Wrong animal.", None, f"{REVIEW}\nVERDICT: good", "stop", None),
        ("Wrong animal.", 1.0, "VERDICT: bad", "stop", "empty"),
        ("Wrong animal.", 1.0, "  ", "stop", "empty"),
        ("Wrong animal.", 1.0, REVIEW, "length", "cut"),
        ("Wrong animal.", 1.0, REVIEW, "stop", "no_verdict"),
        ("Wrong animal.", 1.0, f"{GERMAN}\nVERDICT: bad", "stop", "language"),
        ("Das ist das falsche Tier, und es ist nicht im Bild.", 1.0, f"{GERMAN}\nVERDICT: bad", "stop", None),
        ("错误的动物", 1.0, f"{GERMAN}\nVERDICT: bad", "stop", "language"),
        ("错误的动物", 1.0, "答案把动物认错了。图中是一只狗。\nVERDICT: bad", "stop", None),
        ("Wrong animal.", 1.0, "答案把动物认错了。图中是一只狗。\nVERDICT: bad", "stop", "language"),
    ],
)
def test_answer_passes_every_check_or_names_the_one_it_fails(
    reason: str, score: float | None, text: str, finish: str, failed: str | None
) -> None:
    row = Query.single("q", "short", "What is the animal in the picture?", (Response("A cat.", 1, score, score, score, reason),))
    critique, fault = check(Reason(row, 0), Answer(text, finish), ENGLISH)
    assert (fault[0] if fault else None) == failed
    assert fault is not None or critique in {REVIEW, GERMAN, "答案把动物认错了。图中是一只狗。"}
    assert check(Reason(row, 0), Refusal("status 400"), ENGLISH)[1] == ("refused", "status 400")


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [((5, 4, 5), "good"), ((5, 5, 3), "mixed"), ((5, 5, 2), "bad"), ((1, 5, 5), "bad"), ((None, 4, None), "good"), ((None,) * 3, None)],
)
def test_scored_verdict_follows_the_scores(scores: tuple[float | None, ...], verdict: str | None) -> None:
    assert scored_verdict(Response("x", 1, *scores)) == verdict


def test_failed_checks_are_quarantined_with_their_reason(checkout: Checkout, endpoint: Endpoint) -> None:
    endpoint.answer = lambda _: f"{REVIEW}\nVERDICT: good"
    result = Expander(checkout.settings(), checkout).expand()
    assert result.counts() == {"against_the_score": 3}
    lines = [json.loads(line) for line in (checkout.preferences / "expanded-quarantine.jsonl").read_text().splitlines()]
    assert lines[0] == {
        "id": "q0",
        "response": 1,
        "check": "against_the_score",
        "saw": "good, but its scores say bad",
        "reason": "Wrong animal.",
    }
    assert len(read_expansions(checkout.preferences / "expanded.jsonl")) == 3


def test_command_tells_the_cost_before_it_asks(checkout: Checkout, endpoint: Endpoint) -> None:
    refused = mmalign(checkout.root, "data", "expand")
    assert (refused.returncode, endpoint.requests) == (2, 0)
    assert "the expansions may cost 0.01: pass --yes, or see --estimate" in refused.stderr
    expanded = mmalign(checkout.root, "data", "expand", "--yes", "--json")
    assert expanded.returncode == 0, expanded.stderr
    assert json.loads(expanded.stdout.splitlines()[-1]) == {"expanded": 6, "quarantined": {}, "cost": pytest.approx(6 * (10 + 2 * 4) / 1e6)}


def test_file_without_reasons_is_a_sentence(checkout: Checkout) -> None:
    bare = query(0, REASONS)
    write_rows(checkout, [replace(bare, responses=tuple(replace(r, critique=None) for r in bare.responses))])
    with pytest.raises(UserError, match="whose critique_source is human or not named"):
        Expander(checkout.settings(), checkout)


NUMBER_AS_TEXT = '{"id":"a","response":"0","source":"","critique":"","prompt_version":"","prompt":"","model":""}'


@pytest.mark.parametrize("line", ["{", '{"id": "q0"}', '"text"', NUMBER_AS_TEXT])
def test_damaged_file_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "expanded.jsonl"
    path.write_text(f"\n{line}\n")
    with pytest.raises(UserError, match=r"expanded\.jsonl line 2 .*mmalign data expand"):
        read_expansions(path)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The answer is right, and it shows that the dog is in the picture.", ("LATIN", "en")),
        (GERMAN, ("LATIN", "de")),
        ("La respuesta es correcta, pero no se ve el perro en la imagen.", ("LATIN", "es")),
        ("La réponse est juste, mais elle ne dit pas que le chien est dans la photo.", ("LATIN", "fr")),
        ("Wrong answer", ("LATIN", None)),
        ("Ответ неверный, потому что на картинке не собака и не кошка.", ("CYRILLIC", "ru")),
        ("答えは正しいです", ("HIRAGANA", "ja")),
        ("答案是对的", ("CJK", "zh")),
        ("정답입니다", ("HANGUL", "ko")),
        ("42 !", ("", None)),
    ],
)
def test_language_is_read_from_script_and_function_words(text: str, language: tuple[str, str | None]) -> None:
    assert language_of(text) == language


def test_short_reference_is_taken_for_the_usual_language() -> None:
    assert differs(GERMAN, ["Wrong answer"], Language("LATIN", "en"))
    assert not differs(GERMAN, ["Falsche Antwort"], Language("LATIN", "de"))
    assert not differs(GERMAN, ["Wrong answer"], Language("LATIN", None)), "nothing shows a language"
    assert not differs(GERMAN, ["7"], Language("LATIN", "en")), "a number is in every language"
