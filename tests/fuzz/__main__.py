"""`make fuzz`: gives the parsers of strangers' input what hypothesis thinks of, for a while each.

    make fuzz                                      # 30 seconds a target
    make fuzz ARGS="--seconds 600"                 # all its power
    make fuzz ARGS="--target archives --seed 7"

A finding is an exception that the parser does not document. It is printed with its smallest input; the command then ends with 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Flaky

from tests.fuzz.targets import TARGETS, Target

EXAMPLES = 2000  # of one round; each round has a seed of its own


def fuzz(target: Target, seconds: float, first_seed: int) -> tuple[int, str | None]:
    """Inputs tried in this time, and the first finding's trace with its smallest input."""
    tried = 0
    until = time.monotonic() + seconds

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=(Phase.generate, Phase.shrink)
    )
    @given(target.inputs)
    def parse(value: object) -> None:
        nonlocal tried
        if time.monotonic() > until:
            return
        tried += 1
        try:
            target.parse(value)
        except target.documented:
            return

    number = first_seed
    while time.monotonic() < until:
        try:
            seed(number)(parse)()
        except Flaky:
            pass
        except Exception:  # noqa: BLE001 -- a finding of any kind
            return tried, traceback.format_exc()
        number += 1
    return tried, None


def main() -> None:
    """Fuzz all targets, or one."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=30)
    options.add_argument("--target", choices=sorted(TARGETS), action="append")
    options.add_argument("--seed", type=int, default=0)
    arguments = options.parse_args()
    findings = 0
    for name in arguments.target or TARGETS:
        tried, finding = fuzz(TARGETS[name], arguments.seconds, arguments.seed)
        findings += finding is not None
        print(f"{name}: {tried:,} inputs, {'1 finding' if finding else 'no finding'}", flush=True)
        if finding:
            print(finding, file=sys.stderr, flush=True)
    print(json.dumps({"targets": len(arguments.target or TARGETS), "findings": findings}))
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
