"""A process that has loaded DVC and runs its commands one after another: loading takes longer than most of them.

An order is a line of JSON on stdin: the command's words, its environment, and the file for its output. The answer is a line on stdout with the
exit code. The process ends with its stdin.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def serve() -> None:
    """Run orders until stdin ends. What the commands start reads nothing and writes into the order's file."""
    orders, answers = os.fdopen(os.dup(0)), os.dup(1)  # neither is inherited
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    _load()
    inherited = dict(os.environ)
    for line in orders:
        order: dict[str, Any] = json.loads(line)
        os.environ.clear()
        os.environ.update(inherited | order["environment"])
        os.write(answers, b"%d\n" % _run(order["words"], order["log"]))


def _load() -> None:
    from dvc.cli.parser import get_main_parser

    get_main_parser()  # imports all commands


def _run(words: list[str], log: str) -> int:
    from dvc.cli import main

    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    try:
        return int(main(words))
    except SystemExit as end:  # of DVC's parser, for words that it does not know
        return end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    serve()
