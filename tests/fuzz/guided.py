"""The process that atheris fuzzes in: `python -m tests.fuzz.guided TARGET` with libFuzzer's own options. It ends with 77 at a finding."""

from __future__ import annotations

import sys
from dataclasses import replace

import atheris  # an extra that `make install` leaves out

if __name__ == "__main__":
    name, *options = sys.argv[1:]
    with atheris.instrument_imports(include=["components", "flows", "tarfile", "zipfile"]):
        from tests.fuzz.engines import SLOWEST
        from tests.fuzz.targets import target

        fuzzed = replace(target(name), seconds=SLOWEST)  # counting what is reached takes most of the time
        for content in fuzzed.good:  # loads what the parser loads when it is first called, which counts as no slow input
            fuzzed.run(content)
        atheris.Setup([sys.argv[0], *options], fuzzed.run)
        atheris.Fuzz()
