"""The `mmalign` command. Each sub-command imports heavy modules inside its function, so that help appears at once.

A user's mistake is one sentence on stderr and exit code 2. A fault is exit code 1 with the path of its log.
"""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from typing import NoReturn

import typer

from components.cli.bench import compare, group
from components.cli.data import data, demo, show, transfer, validate
from components.cli.model import judge, model
from components.cli.operations import backup, clean, deployment, doctor, logs, services
from components.cli.registry import lineage, promote, report
from components.cli.run import configure, plan, rehearse, run, stage, status
from components.printable import print_codes
from components.processes.faults import explain

app = typer.Typer(
    name="mmalign",
    help="Align a vision-language model with ranked preferences: versioned data in, a critique-based reward model and an aligned policy out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # boxes double the time of help
)
app.command("run")(run.run)
app.command("plan")(plan.plan)
app.command("rehearse")(rehearse.rehearse)
app.command("configure")(configure.configure)
app.command("stage")(stage.stage)
app.command("status")(status.status)
app.command("report")(report.report)
app.command("lineage")(lineage.lineage)
app.command("promote")(promote.promote)
app.command("rollback")(promote.rollback)
app.command("doctor")(doctor.doctor)
app.command("up")(services.up)
app.command("down")(services.down)
app.command("deploy")(deployment.deploy)
app.command("worker")(deployment.worker)
app.command("cancel")(deployment.cancel)
app.command("resume")(deployment.resume)
app.command("logs")(logs.logs)
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)
app.command("migrate")(services.migrate)
app.command("clean")(clean.clean)
app.add_typer(group.app, name="bench")
app.command("compare")(compare.compare)
app.add_typer(model.app, name="model")
app.add_typer(judge.app, name="judge")
data.app.command("import")(transfer.import_rows)
data.app.command("export")(transfer.export_rows)
data.app.command("new")(transfer.new)
data.app.command("validate")(validate.validate)
data.app.command("show")(show.show)
app.add_typer(data.app, name="data")
app.add_typer(demo.app, name="demo")


def main() -> int:
    """Run the command line; returns the exit code: 0, 1 for a fault, 2 for a user's mistake, 130 for Ctrl-C."""
    try:
        app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 -- the last resort: a sentence for the person, the trace in a log
        return explain(error)
    return 0


def command() -> NoReturn:
    """The command `mmalign`. It ends the process at once: all is written, and libraries take a second to tear themselves down.

    Imports make objects that live on: Python's default of a collection every 700 of them takes a fifth of a short command's time.
    """
    gc.set_threshold(100_000, 50, 100)
    print_codes()
    code = main()
    with suppress(OSError):  # whoever read the output has left
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    command()
