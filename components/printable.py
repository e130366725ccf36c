"""Makes texts of others printable: what a terminal or a page would obey, or reorder, is shown as its code.

Names of files, rows, answers, logs and error texts of libraries reach terminals, notices and pages. They pass through `printable` there.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

# Control characters but tab and newline, C1, marks of direction, separators of lines and paragraphs, byte order marks, interlinear
# annotations, halves of surrogate pairs (bytes of a file's name that are no UTF-8), and tags.
CODES = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
T = TypeVar("T")


def printable(text: str) -> str:
    r"""The text with each of CODES as \xXX, \uXXXX or \UXXXXXXXX; a byte that was no UTF-8 as \xXX."""
    return CODES.sub(lambda match: _code(ord(match[0])), text)


def _code(number: int) -> str:
    if 0xDC80 <= number <= 0xDCFF:
        number -= 0xDC00  # the byte of a name that Python could not decode
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def printable_all(value: T) -> T:
    """All texts in nested lists and mappings, keys included; other values as they are. Markup of a template engine stays markup."""
    made: Any = value
    if isinstance(made, str):
        markup = type(made) if hasattr(made, "__html__") else str
        made = markup(printable(made))
    elif isinstance(value, dict):
        made = {printable_all(key): printable_all(inner) for key, inner in value.items()}
    elif isinstance(value, list | tuple):
        made = [printable_all(inner) for inner in value]
    return made  # type: ignore[no-any-return]


class PrintableStream:
    """A text stream whose lines pass through `printable`. A carriage return at the beginning of a write is a progress bar's, and passes."""

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream  # where rich writes: `open_console` has its texts printable, and its colors are its own
        self._stream = stream

    def write(self, text: str, /) -> int:
        """Write a text."""
        bar = text.startswith("\r")
        return self._stream.write("\r" * bar + printable(text[bar:]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def print_codes() -> None:
    """Let everything that this process prints pass through `printable`."""
    streams: Any = sys
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, PrintableStream):
            setattr(streams, name, PrintableStream(stream))


def open_console(**options: Any) -> Console:
    """A console of rich whose texts pass through `printable`."""
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.segment import Segment

    class Printable:
        def __init__(self, inner: RenderableType) -> None:
            self._inner = inner

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            for text, style, control in console.render(self._inner, options):
                yield Segment(text if control else printable(text), style, control)

    class Hook:
        def process_renderables(self, renderables: list[RenderableType]) -> list[RenderableType]:
            return [Printable(one) for one in renderables]

    made = Console(highlight=False, **options)
    made.push_render_hook(Hook())  # type: ignore[arg-type]
    return made
