"""The process that atheris fuzzes in: `python -m tests.fuzz.guided TARGET` with libFuzzer's own options. It ends with 77 at a finding."""

from __future__ import annotations

import sys

import atheris  # an extra that `make install` leaves out

if __name__ == "__main__":
    name, *options = sys.argv[1:]
    with atheris.instrument_imports(include=["components", "flows", "tarfile", "zipfile"]):
        from tests.fuzz.targets import target

        atheris.Setup([sys.argv[0], *options], target(name).run)
        atheris.Fuzz()
