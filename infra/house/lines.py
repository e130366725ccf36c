"""`make lines`: lines of code and of tests by room, and their ratio.

The last line counts what runs the method: all of components/ and flows/ that is neither the method nor the record, the registry, the report or
the rehearsal. It has a goal.

A room is a package of `components`, or one of the other top folders; its tests lie in the folder of the same name below tests/. Lines are
all lines of Python files, blank ones and comments included.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from infra.house.sources import ROOT, python_files

METHOD = (
    "preferences",
    "families",
    "features",
    "trees",
    "generation",
    "engine",
    "validation",
    "reward",
    "critique",
    "alignment",
    "evaluation",
    "benches",
)

SHOWS = ("tracking", "registry", "report", "rehearsal")  # what is recorded, judged, shown and planned
GOAL = 9_500  # lines of what runs the method, at most


def main() -> None:
    """Print a table with a row a room."""
    code = _count("components", "flows", "demo", "mlflow", "benchmarks", "infra")
    tests = _count("tests")
    print(f"{'room':<14}{'code':>8}{'tests':>8}{'ratio':>8}")
    for room in sorted(code, key=lambda name: -code[name]):
        print(f"{room:<14}{code[room]:>8}{tests[room]:>8}{tests[room] / max(code[room], 1):>8.2f}")
    others = {room: lines for room, lines in tests.items() if room not in code}
    for room in sorted(others, key=lambda name: -others[name]):
        print(f"{room:<14}{'':>8}{others[room]:>8}")
    method = sum(code[room] for room in METHOD)
    print(f"{'all':<14}{code.total():>8}{tests.total():>8}{tests.total() / code.total():>8.2f}")
    print(f"the method ({', '.join(METHOD)}): {method} lines, {method / code.total():.0%} of the code")
    running = _count("components", "flows")
    rest = {room: lines for room, lines in running.most_common() if lines and room not in {*METHOD, *SHOWS}}
    print(f"what runs it ({', '.join(rest)}): {sum(rest.values())} lines; the goal is {GOAL} at most")


def _count(*folders: str) -> Counter[str]:
    lines: Counter[str] = Counter()
    for path in python_files(*folders):
        lines[_room(path)] += len((ROOT / path).read_text(encoding="utf-8").splitlines())
    return lines


def _room(path: Path) -> str:
    top, *rest = path.parts
    if top in {"components", "tests"} and rest:
        return rest[0] if len(rest) > 1 else Path(rest[0]).stem if top == "components" else "shared"
    return top


if __name__ == "__main__":
    sys.exit(main())
