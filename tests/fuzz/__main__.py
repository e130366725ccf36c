"""`make fuzz`: gives the parsers of strangers' input what a fuzzer thinks of, for a while each.

    make fuzz                                      # 30 seconds a target
    make fuzz ARGS="--seconds 600"                 # all its power
    make fuzz ARGS="--target archives --seed 7"
    make fuzz ARGS="--engine atheris"              # guided by coverage; needs `uv pip install atheris`
    make fuzz ARGS="--engine atheris --grow"       # and stores what reached more code

A finding is an exception that the parser does not document. It is printed with its input; the command then ends with 1. Both engines begin from
good files and from tests/fuzz/corpus. Put the input of a finding there: `make test` tries all of them.
"""

from __future__ import annotations

import argparse
import json
import sys

from tests.fuzz.engines import ENGINES
from tests.fuzz.targets import MAKERS


def main() -> None:
    """Fuzz all targets, or some."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=30)
    options.add_argument("--target", choices=sorted(MAKERS), action="append")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--engine", choices=sorted(ENGINES), default="hypothesis")
    options.add_argument("--grow", action="store_true", help="with atheris: store the inputs that reached more code in tests/fuzz/corpus")
    arguments = options.parse_args()
    if arguments.grow and arguments.engine != "atheris":
        options.error("--grow needs --engine atheris")
    more = {"grow": True} if arguments.grow else {}
    names, findings = arguments.target or list(MAKERS), 0
    for name in names:
        tried, finding = ENGINES[arguments.engine](name, arguments.seconds, arguments.seed, **more)
        findings += finding is not None
        print(f"{name}: {tried:,} inputs, {'1 finding' if finding else 'no finding'}", flush=True)
        if finding:
            print(finding, file=sys.stderr, flush=True)
    print(json.dumps({"engine": arguments.engine, "targets": len(names), "findings": findings}))
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
