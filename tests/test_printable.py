"""What a terminal would obey or reorder is shown as its code."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from colorama.ansitowin32 import AnsiToWin32
from markupsafe import Markup
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from components.printable import CODES, PrintableStream, open_console, printable, printable_all
from components.processes.log_lines import clean
from flows.console import Console

HOSTILE = "a\x1b]0;title\x07\x1b[2Jb\x9b31m\u202egpj.exe\u2066\ufeff\x00\x7f\u2028c"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü 图片 🙂\tand\nnext", "plain ü 图片 🙂\tand\nnext"),
        ("\x1b]0;x\x07", "\\x1b]0;x\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202egpj", "\\u202egpj"),
        ("\U000e0041", "\\U000e0041"),
        ("\udcff", "\\xff"),
        ("\ud800", "\\ud800"),
        ("a\rb", "a\\x0db"),
        ("ab\u200ccd", "ab\u200ccd"),  # joins and parts letters in Persian
        ("👩\u200d🔬", "👩\u200d🔬"),
    ],
)
def test_text_is_shown_as(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


def test_every_control_character_has_a_code() -> None:
    controls = {chr(number) for number in range(0x110000) if unicodedata.category(chr(number)) in {"Cc", "Cs", "Zl", "Zp"}}
    direction = {
        chr(number)
        for number in range(0x110000)
        if unicodedata.bidirectional(chr(number)) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    }
    assert {one for one in controls | direction if not CODES.match(one)} == {"\t", "\n"}


def test_values_keep_their_shape_and_markup() -> None:
    shown = printable_all({"\x1b": ["\x9b", ("\x00", 1, None)], "m": Markup("<b>\x1b</b>")})
    assert shown == {"\\x1b": ["\\x9b", ["\\x00", 1, None]], "m": "<b>\\x1b</b>"}
    assert isinstance(shown["m"], Markup)


def test_stream_passes_a_progress_bar_and_no_code() -> None:
    raw = io.StringIO()
    stream = PrintableStream(raw)
    print(HOSTILE, file=stream)
    stream.write("\r 50%|##")
    assert not CODES.search(raw.getvalue().replace("\r 50%", " 50%"))
    assert raw.getvalue().endswith("\r 50%|##")


def test_tables_show_codes_and_keep_their_colors() -> None:
    table = Table()
    table.add_column("name")
    table.add_row(Text(HOSTILE, style="red"))
    raw = io.StringIO()
    open_console(file=raw, force_terminal=True, width=200, color_system="standard").print(Panel(table), Text(HOSTILE))
    text = raw.getvalue()
    assert "\x1b[31m" in text
    assert "\\x1b]0;title" in text  # rich itself drops the bell
    assert not {one for one in "\x9b\u202e\u2066\ufeff\x00\x07" if one in text}
    assert "\x1b[2J" not in text
    assert "\x1b]" not in text


def test_line_of_a_log_loses_colors_and_shows_the_rest() -> None:
    assert clean(b"50%|#\r100%|##\x1b[0m\x1b[A done\x1b]0;x\x07\r") == "100%|## done\\x1b]0;x\\x07"
    assert clean("a\u202eb\x9b2J".encode()) == "a\\u202eb\\x9b2J"


def test_console_of_a_run_takes_a_title_of_a_window() -> None:
    raw = io.StringIO()
    wrapped = AnsiToWin32(raw, convert=False, strip=True)  # DVC's import wraps the streams so; it fails on a title
    Console(wrapped).print(f"data: {HOSTILE}")  # type: ignore[arg-type]
    assert raw.getvalue() == f"data: {printable(HOSTILE)}\n"


def test_command_shows_codes_of_names_and_mistakes(tmp_path: Path) -> None:
    rows = tmp_path / "a\x1b]0;title\x07\u202e.jsonl"
    rows.write_text('{"id": "\x9b31m"}\n', encoding="utf-8")
    for name in (os.fspath(rows), os.fspath(tmp_path / "missing\x1b[2J")):
        completed = subprocess.run(
            [sys.executable, "-m", "components.cli.main", "data", "validate", name],
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            check=False,
        )
        output = (completed.stdout + completed.stderr).decode()
        assert completed.returncode != 0
        assert "\\x1b" in output
        assert not CODES.search(output)
