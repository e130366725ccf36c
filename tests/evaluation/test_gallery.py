"""The gallery of held-out answers: its pictures, and in a browser its filters, keys, safety, size and speed."""

from __future__ import annotations

import base64
import io
import random
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from components.evaluation.gallery import FRAMES_SHOWN, IMAGES_BYTES, THUMBNAIL, disagrees, render, thumbnails
from components.preferences.record import Medium, Query
from tests.shapes.photographs import SIZES, photograph

SCRIPT = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
ROWS, SECONDS, BYTES = 2000, 2.0, 15_000_000


def picture(path: Path, size: tuple[int, int], color: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, color).save(path)


def opened(address: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(address.split(",")[1])))


def row(
    number: int, category: str = "short", change: str = "same", scores: tuple[float, float] = (0.0, 0.0), **texts: str
) -> dict[str, Any]:
    marks = {"same": ("right", "right"), "worse": ("right", "wrong"), "better": ("wrong", "right")}[change]
    answers = (texts.get("base", f"Base {number}."), texts.get("aligned", f"Aligned {number}."))
    return {
        "id": f"q{number}",
        "category": category,
        "prompt": texts.get("prompt", f"Question {number}?"),
        "media": [],
        "change": change,
        "policies": [
            {"policy": policy, "answer": answer, "good": mark == "right", "mark": mark, "critique": "So it is.", "score": score}
            for policy, answer, mark, score in zip(("base", "aligned"), answers, marks, scores, strict=True)
        ],
    }


ROWS_SHOWN = [
    row(0, "mcq", "worse", (1.0, 2.0)),
    row(1, "short", "better", (1.0, 2.0)),
    row(2, "short", "worse", (2.0, 1.0), prompt="Where is the Zebra?"),
    row(3, "safety", "same", (0.0, 5.0), aligned=SCRIPT),
]


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Any:
    (tmp_path / "page.html").write_text(render(ROWS_SHOWN, [[]] * 4))
    opened_page = browser.new_page()
    opened_page.errors = []
    opened_page.on("pageerror", lambda error: opened_page.errors.append(str(error)))
    opened_page.on("console", lambda message: opened_page.errors.append(message.text))
    opened_page.goto((tmp_path / "page.html").as_uri())
    yield opened_page
    opened_page.close()


def shown(page: Any) -> list[str]:
    visible: list[str] = page.evaluate(
        "[...document.querySelectorAll('article:not([hidden]) h2 + small')].map(e => e.textContent.split(' ')[0])"
    )
    return visible


@pytest.mark.parametrize(
    ("change", "scores", "expected"),
    [
        ("worse", (1.0, 2.0), True),
        ("worse", (2.0, 1.0), False),
        ("better", (2.0, 1.0), True),
        ("better", (1.0, 2.0), False),
        ("better", (1.0, 1.0), False),
        ("same", (1.0, 2.0), False),
    ],
)
def test_disagreement_is_opposite_order_of_scores(change: str, scores: tuple[float, float], expected: bool) -> None:
    assert disagrees(row(0, change=change, scores=scores)) is expected


def test_filters_show_what_they_name(page: Any) -> None:
    assert shown(page) == ["q0", "q1", "q2", "q3"]
    assert page.text_content("#count") == "4 of 4 shown"
    page.select_option("#category", "short")
    assert shown(page) == ["q1", "q2"]
    page.select_option("#change", "worse")
    assert (shown(page), page.text_content("#count")) == (["q2"], "1 of 4 shown")
    page.keyboard.press("Escape")
    assert len(shown(page)) == 4
    page.check("#disagree")
    assert shown(page) == ["q0"]
    page.keyboard.press("Escape")
    page.select_option("#mark", "wrong")
    assert shown(page) == ["q0", "q2"]
    page.keyboard.press("Escape")
    page.fill("#text", "zebra")
    assert shown(page) == ["q2"]
    assert page.errors == []


def test_keys_move_through_what_is_shown(page: Any) -> None:
    def focused() -> str | None:
        name: str | None = page.evaluate("document.activeElement.querySelector('h2')?.textContent")
        return name

    page.select_option("#category", "short")
    page.evaluate("document.activeElement.blur()")
    for key, expected in (("j", "Question 1?"), ("j", "Where is the Zebra?"), ("j", "Where is the Zebra?"), ("k", "Question 1?")):
        page.keyboard.press(key)
        assert focused() == expected
    page.keyboard.press("/")
    page.keyboard.type("jk")
    assert page.input_value("#text") == "jk"


def test_controls_and_articles_have_names_for_screen_readers(page: Any) -> None:
    for role, name in (("searchbox", "Text"), ("combobox", "Category"), ("combobox", "Change"), ("checkbox", "reward model against judge")):
        assert page.get_by_role(role, name=name).count() == 1
    assert page.get_by_role("article", name="Where is the Zebra?").count() == 1
    assert page.get_by_role("status").text_content() == "4 of 4 shown"


def test_hostile_answer_stays_text(page: Any) -> None:
    assert page.title() == "Held-out answers side by side"
    assert "onerror" in page.text_content("article:last-of-type")
    assert page.locator("article img").count() == 0


def test_injected_script_is_refused_by_policy(page: Any) -> None:
    page.evaluate("const e = document.createElement('script'); e.textContent = \"document.title='owned'\"; document.body.append(e)")
    assert page.title() == "Held-out answers side by side"
    assert any("Content Security Policy" in error for error in page.errors)


def test_thumbnails_are_small_and_of_the_first_frames(tmp_path: Path) -> None:
    picture(tmp_path / "wide.png", (400, 200), 10)
    picture(tmp_path / "small.png", (20, 10), 20)
    for number in (3, 0, 4, 2, 1):
        picture(tmp_path / f"clip/{number}.png", (10, 10), 50 * number)
    (tmp_path / "clip/.hidden").write_text("no picture")
    wide, small, clip = Medium("wide.png", "image"), Medium("small.png", "image"), Medium("clip", "video")
    queries = [
        Query.single("a", "mcq", "?", (), wide),
        Query.single("b", "mcq", "?", (), small),
        Query.single("c", "video", "?", (), clip),
        Query.single("d", "short", "?", ()),
        Query.single("e", "mcq", "?", (), wide, clip, small),
    ]
    first, second, frames, none, several = thumbnails(tmp_path, queries)
    assert (THUMBNAIL, FRAMES_SHOWN) == (160, 4)
    assert [(opened(one).size, opened(one).mode, opened(one).format) for one in (*first, *second)] == [
        ((160, 80), "RGB", "PNG"),
        ((20, 10), "RGB", "PNG"),
    ]
    assert [opened(frame).getpixel((0, 0)) for frame in frames] == [(50 * number,) * 3 for number in range(4)]
    assert (none, several) == ([], [*first, *frames, *second])


@pytest.mark.parametrize("copies", [1, 700])
def test_photographs_share_the_bytes_of_a_page(tmp_path: Path, copies: int) -> None:
    photograph("astronaut.jpg").save(tmp_path / "a.jpg")
    query = Query.single("a", "mcq", "?", (), Medium("a.jpg", "image"))
    ((address,), *others) = thumbnails(tmp_path, [query] * copies)
    assert address.startswith("data:image/webp;base64,")
    assert len(base64.b64decode(address.split(",")[1])) <= (12_000 if copies == 1 else IMAGES_BYTES / 700)
    assert max(opened(address).size) <= THUMBNAIL
    assert all(other == [address] for other in others)


@pytest.mark.slow
def test_two_thousand_photographs_are_small_and_drawn_at_once(browser: Any, tmp_path: Path) -> None:
    draw = random.Random(0)  # noqa: S311 -- a test
    words = [
        "the",
        "picture",
        "shows",
        "a",
        "long",
        "street",
        "with",
        "people",
        "who",
        "walk",
        "slowly",
        "towards",
        "old",
        "houses",
        "in",
        "rain",
    ]
    sources = [photograph(name).resize((480, 360)) for name in SIZES]
    for number in range(ROWS):
        x, y = draw.randrange(160), draw.randrange(120)
        sources[number % len(sources)].crop((x, y, x + 320, y + 240)).save(tmp_path / f"{number}.jpg", quality=90)
    queries = [Query.single(f"q{n}", "short", "?", (), Medium(f"{n}.jpg", "image")) for n in range(ROWS)]
    text = [" ".join(draw.choices(words, k=60)) for _ in range(ROWS)]
    rows = [row(n, "short", draw.choice(("same", "worse", "better")), base=text[n], aligned=text[-n]) for n in range(ROWS)]
    content = render(rows, thumbnails(tmp_path, queries))
    assert len(content.encode()) < BYTES
    (tmp_path / "page.html").write_text(content)
    page = browser.new_page()
    began = time.monotonic()
    page.goto((tmp_path / "page.html").as_uri())
    page.evaluate("new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
    drawn = time.monotonic() - began
    page.fill("#text", "rain street")
    print(f"{len(content) / 1e6:.1f} MB, drawn in {drawn:.2f} s")
    assert drawn < SECONDS
    page.close()
