"""The process that hypothesis fuzzes in: `python -m tests.fuzz.structured TARGET SECONDS SEED FOLDER`. It leaves its result in FOLDER."""

from __future__ import annotations

import json
import math
import resource
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hypothesis.errors import HypothesisWarning

from tests.fuzz.engines import EXAMPLES, INPUT, RESULT, examples
from tests.fuzz.targets import target

MEMORY_BYTES = 16 * 2**30  # of address space, so that no input takes the machine's memory


def main(name: str, seconds: float, first_seed: int, folder: Path) -> None:
    """Try inputs, and write how many, and the first finding."""
    warnings.simplefilter("ignore", HypothesisWarning)  # on the length of an input
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    noted, finding = replace(target(name), parse=noting(target(name).parse, folder / INPUT)), None
    for content in noted.good:  # loads what the parser loads when it is first called, which counts as no slow input
        replace(target(name), seconds=math.inf).run(content)
    tried, until, number = 0, time.monotonic() + seconds, first_seed
    while finding is None and (not tried or time.monotonic() < until):
        count, finding = examples(noted, EXAMPLES, number, until)
        tried, number = tried + count, number + 1
    (folder / RESULT).write_text(json.dumps({"tried": tried, "finding": finding and str(finding)}))


def noting(parse: Callable[[bytes], object], file: Path) -> Callable[[bytes], object]:
    """The parser, which writes each input into a file first: whoever watches it sees that it goes on, and what a crash came of."""

    def noted(content: bytes) -> object:
        file.write_bytes(content)
        return parse(content)

    return noted


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
