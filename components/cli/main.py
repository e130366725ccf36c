"""The `mmalign` command. Sub-commands are one file each; what is heavy is imported inside them, so that help comes at once.

A user's mistake is one sentence on stderr and exit code 2. A fault is exit code 1 with the path of its log.
"""

from __future__ import annotations

import sys
import time
import traceback
from pathlib import Path

import typer

from components.cli import demo, plan, run, stage
from components.errors import StageFault, UserError

app = typer.Typer(
    name="mmalign",
    help="Align a vision-language model with human preferences: versioned data in, a critique-based reward model and an aligned policy out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("run")(run.run)
app.command("plan")(plan.plan)
app.command("stage")(stage.stage)
app.add_typer(demo.app, name="demo")


def main() -> int:
    """Run the command line and give its exit code: 0, 1 for a fault, 2 for a user's mistake, 130 for Ctrl-C."""
    try:
        app()
    except UserError as error:
        print(f"mmalign: {error}", file=sys.stderr)
        return 2
    except StageFault as error:
        print(f"mmalign: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mmalign: interrupted", file=sys.stderr)
        return 130
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception as error:  # noqa: BLE001 -- the last resort: the trace goes to a log, a sentence to the person
        log = _write_trace()
        print(f"mmalign: {type(error).__name__}: {' '.join(str(error).split())}; the whole trace is in {log}", file=sys.stderr)
        return 1
    return 0


def _write_trace() -> Path:
    log = Path("logs") / f"fault-{time.strftime('%Y%m%d-%H%M%S')}.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text(traceback.format_exc(), encoding="utf-8")
    return log


if __name__ == "__main__":
    sys.exit(main())
