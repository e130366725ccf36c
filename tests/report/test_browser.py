"""The page in a browser: it runs no script, loads nothing, overflows nowhere, and is readable."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from components.checkout import Checkout
from components.report.render import render_report
from tests.report.conftest import HANDLER, HOSTILE_FILE, PROMOTED, SCRIPT, without_judges, write_summary

Build = Callable[[Path], None]

CONTRAST = """() => {
  const channel = c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = rgb => { const [r, g, b] = rgb.match(/[\\d.]+/g).map(Number); return 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b) };
  const behind = e => { while (e) { const c = getComputedStyle(e).backgroundColor; if (c !== 'rgba(0, 0, 0, 0)') return c; e = e.parentElement } };
  const faint = [];
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
    const style = getComputedStyle(e), colours = [light(e.closest('svg') ? style.fill : style.color), light(behind(e))].sort((a, b) => b - a);
    if ((colours[0] + 0.05) / (colours[1] + 0.05) < 4.5) faint.push(e.tagName + ': ' + e.textContent.slice(0, 40));
  }
  return faint;
}"""
OVERFLOWING = """() => [...document.querySelectorAll('body *:not(.skip)')]
  .filter(e => { const r = e.getBoundingClientRect(); return r.width > 1 && (r.right > innerWidth + 0.5 || r.left < -0.5) })
  .map(e => e.tagName + '.' + e.className + ': ' + e.textContent.slice(0, 40))"""


@pytest.fixture
def served(run: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of the checkout's reports folder, and the requested paths."""
    requested: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, code: object = "-", size: object = "-") -> None:  # noqa: ARG002
            requested.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(run / "reports")))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/report.html", requested
    server.shutdown()
    thread.join()
    server.server_close()


def finished(root: Path) -> None:
    write_summary(root, **PROMOTED)


def failed(root: Path) -> None:
    log = root / "logs/x/align.log"
    log.parent.mkdir(parents=True)
    log.write_text(f"a line without a space {'x' * 500}\n{SCRIPT}{HANDLER}\n\x1b[31mRuntimeError\x1b[0m: no memory\n")
    write_summary(root, "failed", failed="align", log="logs/x/align.log")


def bare(root: Path) -> None:
    for name in ("artifacts", "data", "dvc.lock", "params.yaml", "mlflow.db", ".git"):
        path = root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_summary(root)


def long_words(root: Path) -> None:
    gate = {"mm-policy": {"verdict": "refused", "reasons": ["w" * 300], "champion": {"version": "2" * 30, "conversation": 1.0}}}
    registry = {"mm-policy": {"version": 12, "aliases": ["a" * 200], "digest": "c" * 64}}
    write_summary(root, gate=gate, registry=registry)
    (root / "artifacts/validate/quarantine.jsonl").write_text(
        json.dumps({"file": "f" * 190, "line": 1, "field": "", "reason": "r" * 190}) + "\n"
    )


def unjudged(root: Path) -> None:
    without_judges(root)
    write_summary(root)


def test_hostile_texts_stay_text_and_load_nothing(run: Path, browser: Any, served: tuple[str, list[str]]) -> None:
    finished(run)
    render_report(Checkout(run))
    address, requested = served
    messages: list[str] = []
    requests: list[str] = []
    page = browser.new_page()
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    for details in page.locator("details").all():
        details.evaluate("e => e.open = true")
    page.wait_for_timeout(200)
    assert page.evaluate("window.hit") is None
    assert messages == []
    assert requested == ["/report.html"]
    assert [url for url in requests if not url.startswith("data:")] == [address]
    assert page.locator("script, iframe, object, embed, form, [onerror], [onclick]").count() == 0
    assert all(source.startswith("data:image/") for source in page.eval_on_selector_all("img", "all => all.map(e => e.src)"))
    assert page.eval_on_selector_all("img", "all => all.every(e => e.complete && e.naturalWidth > 0)")
    text = page.inner_text("main")
    assert f"{SCRIPT}{HANDLER}base says" in text  # an answer
    assert f"{HANDLER}What is shown" in text  # a prompt
    assert f"{HANDLER}I see a thing." in text  # a critique of an answer
    assert f"{SCRIPT}I see it." in text  # a critique of a ranked response
    assert f"prompt: holds {SCRIPT}" in text  # a quarantine reason
    assert f"no more unsafe answers {SCRIPT}" in page.inner_text("header")  # a reason of the gate
    page.close()


def test_unescaped_page_runs_no_script(run: Path, browser: Any, served: tuple[str, list[str]]) -> None:
    finished(run)
    path = render_report(Checkout(run))
    path.write_text(path.read_text().replace("</main>", f"{SCRIPT}{HANDLER}</main>"))
    page = browser.new_page()
    page.goto(served[0])
    page.wait_for_timeout(200)
    assert page.evaluate("window.hit") is None
    assert served[1] == ["/report.html"]
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("build", [finished, failed, bare, long_words, unjudged])
def test_page_fits_phone_and_stays_readable(run: Path, browser: Any, build: Build, scheme: str) -> None:
    build(run)
    path = render_report(Checkout(run))
    page = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page.goto(path.as_uri())
    page.eval_on_selector_all("details", "all => all.forEach(e => e.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.evaluate(OVERFLOWING) == []
    assert page.evaluate(CONTRAST) == []
    page.set_viewport_size({"width": 800, "height": 740})
    page.emulate_media(media="print" if scheme == "light" else "screen")
    assert page.evaluate("document.documentElement.scrollWidth") == 800
    assert page.evaluate(OVERFLOWING) == []
    page.close()


def test_page_is_accessible(run: Path, browser: Any) -> None:
    finished(run)
    page = browser.new_page()
    page.goto(render_report(Checkout(run)).as_uri())
    levels = page.eval_on_selector_all("h1, h2, h3, h4, h5", "all => all.map(e => Number(e.tagName[1]))")
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert page.locator("table").count() == page.locator("table > caption").count() > 6
    unscoped = page.eval_on_selector_all(
        "th:not([scope]), tbody tr", "all => all.filter(e => e.tagName === 'TH' || !e.querySelector('th[scope=row]')).length"
    )
    assert unscoped == 0
    spans = (
        "all => all.map(t => [...t.rows].map(r => [...r.cells].reduce((n, c) => n + c.colSpan, 0))).filter(n => new Set(n).size > 1).length"
    )
    assert page.eval_on_selector_all("table", spans) == 0, "every row has as many columns as its head"
    assert page.locator("img:not([alt]), svg:not([aria-label])").count() == 0
    assert page.locator("svg[role=img]").count() == 9
    missing = page.eval_on_selector_all("nav a", "all => all.filter(e => !document.querySelector(e.getAttribute('href'))).length")
    assert missing == 0
    assert page.locator(f"img[alt*='{HOSTILE_FILE}']").count() == 0
    page.close()


def test_samples_page_loads_nothing_and_shows_its_pictures(browser: Any, tmp_path: Path) -> None:
    """The page that a stage writes for people, with hostile answers."""
    from components.evaluation.gallery import render

    dot = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    hostile = "<script>document.title='ran'</script><img src=http://127.0.0.1:9/x onerror=document.title='ran'>\u202e\x9b"
    policies = [
        {"policy": name, "answer": hostile, "good": True, "mark": "right", "critique": hostile, "score": 0.5}
        for name in ("base", "aligned")
    ]
    row = {"id": hostile, "category": "mcq", "prompt": hostile, "change": "same", "policies": policies}
    file = tmp_path / "samples.html"
    file.write_text(render([row], [[f"data:image/png;base64,{dot}"]]))
    assert "\\u202e\\x9b" in file.read_text()
    page = browser.new_page()
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.goto(file.as_uri())
    assert [one for one in requested if not one.startswith("data:")] == [file.as_uri()]
    assert page.title() == "Held-out answers side by side"
    assert page.evaluate("document.querySelector('article img').naturalWidth") == 1
    assert page.evaluate("getComputedStyle(document.querySelector('article')).display") == "grid"
    blocked = page.evaluate("""() => new Promise(done => {
        document.addEventListener('securitypolicyviolation', event => done(event.violatedDirective));
        const script = document.createElement('script'); script.textContent = "document.title = 'ran'"; document.body.append(script); })""")
    assert blocked.startswith("script-src")
    assert page.title() == "Held-out answers side by side"
    page.close()
