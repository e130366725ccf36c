"""`mmalign logs`: shows the logs of a run or a service; with -f new lines too."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components.checkout import Checkout
from components.errors import UserError
from components.operations.environment import enter_checkout
from components.operations.services.state import read_addresses
from components.stages import STAGE_NAMES

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

    from components.operations.run_logs import RunLogs

POLL_SECONDS = 0.5
ASK_SECONDS = 5.0  # between two queries to Prefect's server whether a run has ended
LAST_RUNS = 5
ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SERVICE_LINES = 200  # shown of a service's log
LEVELS = ((50, "CRITICAL"), (40, "ERROR"), (30, "WARNING"), (20, "INFO"))


def logs(
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="a date as in logs/, a run's name in Prefect, or an id's beginning; else the last run"),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="continue until the run ends")] = False,
    stage: Annotated[str | None, typer.Option("--stage", metavar="NAME", help="only this stage")] = None,
    service: Annotated[str | None, typer.Option("--service", metavar="NAME", help="a service's log: such as prefect or worker")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the files' names as JSON")] = False,
) -> None:
    """Show the logs of a run's stages, and of its flow if a deployment started it."""
    checkout = enter_checkout()
    if service is not None:
        if run is not None or stage is not None:
            raise UserError("--service shows a service's log: use it without a run and without --stage")
        path = _service_log(checkout, service)
        if as_json:
            print(json.dumps({"service": service, "files": [str(path)]}, indent=2))
        else:
            _show_service(path, follow=follow)
        return
    chosen = _choose(checkout, run)
    if stage is not None:
        _check_stage(stage)
    if as_json:
        print(json.dumps(_described(checkout, chosen, stage), indent=2))
        return
    try:
        _show(checkout, chosen, stage, follow=follow)
    except KeyboardInterrupt:
        return  # the person has stopped it


@dataclass(frozen=True)
class Chosen:
    """A run: its logs, one an attempt of the same flow run, the oldest first; and the flow run if a deployment started it."""

    logs: list[RunLogs]
    flow_run: FlowRun | None


def _choose(checkout: Checkout, named: str | None) -> Chosen:
    from components.operations.run_logs import all_logs

    runs = all_logs(checkout)
    if named is None:
        if not runs:
            raise UserError("no run has left logs yet: `mmalign run` writes the first")
        return _whole(checkout, runs, runs[0])
    matches = [one for one in runs if _is_named(one, named)]
    exact = [one for one in matches if named in {one.name, one.flow_run, one.mlflow_run}]
    different = {one.flow_run or one.name for one in exact or matches}
    if len(different) == 1:
        return _whole(checkout, runs, (exact or matches)[0])
    if len(different) > 1:
        raise UserError(f"'{named}' begins the names of several runs ({', '.join(sorted(different)[:LAST_RUNS])}): write more of it")
    flow_run = _flow_run(checkout, named)
    if flow_run is None:
        last = ", ".join(one.name for one in runs[:LAST_RUNS]) or "none yet"
        raise UserError(f"no run has the name '{named}'; the last runs: {last}")
    return Chosen([one for one in reversed(runs) if one.flow_run == str(flow_run.id)], flow_run)


def _is_named(one: RunLogs, named: str) -> bool:
    return len(named) >= 4 and any(name is not None and name.startswith(named) for name in (one.name, one.flow_run, one.mlflow_run))


def _whole(checkout: Checkout, runs: list[RunLogs], one: RunLogs) -> Chosen:
    """A run with the other attempts of its flow run."""
    if one.flow_run is None:
        return Chosen([one], None)
    return Chosen([other for other in reversed(runs) if other.flow_run == one.flow_run], _flow_run(checkout, one.flow_run))


def _flow_run(checkout: Checkout, named: str) -> FlowRun | None:
    """A run of a deployment by its name, or by its id or the beginning of that; None without services, and where they know none."""
    if read_addresses(checkout) is None:
        return None
    from flows.flow_runs import find_run, read_run

    if ID.fullmatch(named):
        return read_run(checkout, named)
    with suppress(UserError):
        return find_run(checkout, named)
    return None


def _described(checkout: Checkout, chosen: Chosen, stage: str | None) -> dict[str, Any]:
    files = [path for one in chosen.logs for path in one.files if stage in {None, path.stem}]
    return {
        "runs": [one.name for one in chosen.logs],
        "flow_run": str(chosen.flow_run.id) if chosen.flow_run else next((one.flow_run for one in chosen.logs), None),
        "mlflow_runs": [one.mlflow_run for one in chosen.logs],
        "under_way": _goes_on(checkout, chosen),
        "files": [str(path) for path in files],
    }


def _show(checkout: Checkout, chosen: Chosen, stage: str | None, *, follow: bool) -> None:
    """Print all logs; with `follow` also new lines and new files, until the run has ended."""
    read: dict[Path, _Tail] = {}
    flow = _FlowLines(checkout, chosen.flow_run)
    title = _Titles()
    polled = 0.0
    goes_on = follow and _goes_on(checkout, chosen)
    while True:
        if stage is None:
            for line in flow.new():
                title.print("the run", line)
        for one in chosen.logs:
            for path in (path for path in one.files if stage in {None, path.stem}):
                tail = read.setdefault(path, _Tail(path))
                for line in tail.new(last=not goes_on):
                    title.print(str(path.relative_to(checkout.root) if path.is_relative_to(checkout.root) else path), line)
        if not goes_on:
            break
        time.sleep(POLL_SECONDS)
        if time.monotonic() - polled > ASK_SECONDS or chosen.flow_run is None:
            polled = time.monotonic()
            chosen = _choose(checkout, str(chosen.flow_run.id)) if chosen.flow_run else chosen
            goes_on = _goes_on(checkout, chosen)
    if not title.printed:
        print(f"the logs{f' of stage {stage}' if stage else ''} are empty: no stage was stale, or none has begun")


def _goes_on(checkout: Checkout, chosen: Chosen) -> bool:
    if chosen.flow_run is not None:
        now = _flow_run(checkout, str(chosen.flow_run.id))
        if now is not None and now.state is not None:
            return not now.state.is_final()
    return any(one.under_way for one in chosen.logs)


class _Titles:
    """Prints lines, with a title where their source changes."""

    def __init__(self) -> None:
        self.printed = False
        self._last: str | None = None

    def print(self, source: str, line: str) -> None:
        """Print one line of `source`."""
        if source != self._last:
            print(f"{chr(10) if self.printed else ''}== {source} ==")
        self._last, self.printed = source, True
        print(line, flush=True)


class _Tail:
    """New complete lines of a file, in the state that a terminal would show last."""

    def __init__(self, path: Path, begin: int = 0) -> None:
        self._path = path
        self._offset = begin
        self._rest = b""

    def new(self, *, last: bool) -> Iterator[str]:
        """New lines since the last call; an incomplete line only with `last`."""
        from components.processes.log_lines import clean

        with self._path.open("rb") as stream:
            if stream.seek(0, 2) < self._offset:  # rotated
                self._offset, self._rest = 0, b""
            stream.seek(self._offset)
            added = stream.read()
        self._offset += len(added)
        *lines, self._rest = (self._rest + added).split(b"\n")
        if last and self._rest:
            lines, self._rest = [*lines, self._rest], b""
        yield from (text for text in (clean(line) for line in lines) if text)


class _FlowLines:
    """New lines of a flow run's log on Prefect's server."""

    def __init__(self, checkout: Checkout, flow_run: FlowRun | None) -> None:
        self._checkout = checkout
        self._flow_run = flow_run
        self._offset = 0

    def new(self) -> Iterator[str]:
        """New lines since the last call; none while the server is away."""
        if self._flow_run is None:
            return
        from flows.flow_runs import read_log, server_client

        try:
            with server_client(self._checkout) as client:
                while lines := read_log(client, self._flow_run.id, self._offset):
                    self._offset += len(lines)
                    for line in lines:
                        level = next((word for number, word in LEVELS if line.level >= number), "DEBUG")
                        yield from (f"{line.timestamp:%Y-%m-%dT%H:%M:%S} {level:<8} {text}" for text in line.message.splitlines())
        except UserError:
            return


def _service_log(checkout: Checkout, name: str) -> Path:
    from components.operations.services.programs import NAMES
    from components.operations.services.supervision import log_folder

    services = [*NAMES, "supervisord"]
    if name not in services:
        raise UserError(f"there is no service '{name}'; the services are {', '.join(services)}")
    if read_addresses(checkout) is None:
        raise UserError(f"{checkout.root} has no services: `mmalign up` starts them")
    path = log_folder(checkout) / f"{name}.log"
    if not path.is_file():
        raise UserError(f"{path} is missing: the service {name} has not run here")
    return path


def _show_service(path: Path, *, follow: bool) -> None:
    from components.processes.log_lines import last_lines

    begin = path.stat().st_size
    print("\n".join(last_lines(path, SERVICE_LINES)), flush=True)
    if follow:
        _follow_service(path, begin)


def _follow_service(path: Path, begin: int) -> None:
    """Print new lines until Ctrl-C."""
    tail = _Tail(path, begin)
    try:
        while True:
            for line in tail.new(last=False):
                print(line, flush=True)
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        return


def _check_stage(name: str) -> None:
    if name not in STAGE_NAMES:
        raise UserError(f"--stage {name}: there is no such stage; the stages are {', '.join(STAGE_NAMES)}")
