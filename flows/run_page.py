"""The page of a run on Prefect: progress while it runs, then stages with times, the verdict with its reasons, links.

Nothing here can fail a run: the first failed write is logged, later ones are not. Texts lose their secrets and their markdown and HTML.
"""

from __future__ import annotations

import html
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_progress_artifact, create_table_artifact
from prefect.artifacts import update_progress_artifact as update_progress

from components.checkout import Checkout
from components.files import read_json
from components.printable import printable
from components.processes.faults import RunOutcome
from components.processes.log_lines import last_lines, last_share
from components.processes.redaction import redactor
from components.report.summary import FINISHED, MODELS
from components.stages import STAGE_NAMES
from components.tracking.recorder import PENDING
from components.tracking.store import reach

SHOWN_LINES = 30  # of a failed stage's log
PROGRESS_SECONDS = 10.0
MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|~-])")
RUN_FOLDER = "[0-9]" * 8 + "-" + "[0-9]" * 6  # logs/20261125-020000


class Page:
    """The artifacts of one flow run. `checkout` is the deployed one, `workspace` the one in which the run works."""

    def __init__(self, checkout: Checkout, workspace: Checkout, log: Callable[[str], None] = print) -> None:
        self._checkout = checkout
        self._workspace = workspace
        self._log = log
        self._failed = False
        self._progress: UUID | None = None
        self._share = 0.0

    @contextmanager
    def following(self) -> Iterator[None]:
        """Show the run's progress while the block runs. The file reports/summary.json is whole at any time."""
        ended = threading.Event()

        def follow() -> None:
            while not ended.wait(PROGRESS_SECONDS):
                if self._workspace.summary.is_file():
                    self.progress(read_json(self._workspace.summary))

        thread = threading.Thread(target=copy_context().run, args=(follow,), name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(PROGRESS_SECONDS)

    def progress(self, summary: Mapping[str, Any]) -> None:
        """Show how far the run is: the stages begun, and the progress bar of the newest one."""
        if summary.get("status") == "running":  # else it is an earlier run's
            share, words = self.finished_share(summary)
            self._show(share, words)

    def finished_share(self, summary: Mapping[str, Any]) -> tuple[float, str]:
        """The share of finished stages (0 to 1, it never shrinks), and the work under way, in words."""
        finished = sum(summary["stages"][name]["status"] in FINISHED for name in STAGE_NAMES)
        words = f"{finished} of {len(STAGE_NAMES)} stages are finished"
        within = 0.0
        begun = self._begun()
        if begun is not None:
            stage, log = begun
            finished = max(finished, STAGE_NAMES.index(stage))
            bar = last_share(log)
            within, line = bar if bar is not None else (0.0, "")
            words = f"stage {stage}" + (f": {line}" if line else "")
        self._share = max(self._share, min((finished + within) / len(STAGE_NAMES), 0.99))
        return self._share, words

    def finish(self, summary: Mapping[str, Any] | None, outcome: RunOutcome, remarks: Sequence[str] = ()) -> None:
        """Write verdict, stages and links. `summary` is this run's, None where it wrote none; `remarks` are sentences to add."""
        self._show(1.0 if outcome.kind == "ok" else self._share, "ended" if outcome.kind == "ok" else outcome.sentence)
        links = self._links(summary)
        self._write(lambda: create_markdown_artifact(self.verdict(summary, outcome, remarks, links), key="verdict", description="Verdict"))
        if summary is not None:
            self._write(lambda: create_table_artifact(self.stages(summary), key="stages", description="Stages and their times"))
        for key, (text, address) in links.items():
            self._write(partial(create_link_artifact, address, link_text=text, key=key, description=text))

    def stages(self, summary: Mapping[str, Any]) -> list[dict[str, Any]]:
        """One row a stage."""
        return [
            {
                "stage": name,
                "status": stage["status"].replace("_", " "),
                "seconds": stage["seconds"] or "",
                "MLflow run": stage["mlflow_run_id"] or "",
            }
            for name, stage in ((name, summary["stages"][name]) for name in STAGE_NAMES)
        ]

    def verdict(
        self, summary: Mapping[str, Any] | None, outcome: RunOutcome, remarks: Sequence[str], links: Mapping[str, tuple[str, str]]
    ) -> str:
        """The markdown text: the verdict on each model with all its reasons, or where and why the run failed."""
        parts = [f"# {'The run ended well' if outcome.kind == 'ok' else 'The run failed'}"]
        if outcome.kind != "ok":
            where = f" (stage {outcome.stage})" if outcome.stage else ""
            parts.append(f"**{outcome.kind}**{where}: {self._text(outcome.sentence)}")
            parts += self._log_end(outcome)
        elif summary is not None:
            for name in reversed(MODELS):
                gate, version = summary["gate"][name], summary["registry"][name]["version"]
                named = f"{name} version {version}" if version is not None else name
                parts.append(f"## {named}: {(gate['verdict'] or 'not judged').replace('_', ' ')}")
                parts.append("\n".join(f"- {self._text(reason)}" for reason in gate["reasons"]) or "No reason is recorded.")
        if remarks:
            parts.append("## Afterwards\n\n" + "\n".join(f"- {self._text(remark)}" for remark in remarks))
        if links:
            parts.append(" · ".join(f"[{text}]({address})" for text, address in links.values()))
        return "\n\n".join(parts) + "\n"

    def _log_end(self, outcome: RunOutcome) -> list[str]:
        log = self._workspace.root / outcome.log if outcome.log else None
        if log is None or not log.is_file():
            return []
        text = redactor(self._checkout).clean("\n".join(last_lines(log, SHOWN_LINES)))
        longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
        fence = "`" * max(3, longest + 1)  # no line of the log can end the block
        return [f"The last lines of `{str(log).replace('`', '')}`:", f"{fence}text\n{text}\n{fence}"]

    def _links(self, summary: Mapping[str, Any] | None) -> dict[str, tuple[str, str]]:
        """The MLflow run and the report that is attached to it: key of the artifact to text and address."""
        run_id = summary["mlflow_run_id"] if summary is not None else None
        server = os.environ.get("MLFLOW_TRACKING_URI", "").rstrip("/")
        if not run_id or not server.startswith(("http://", "https://")):
            return {}
        away = {"mlflow": ("MLflow", redactor(self._checkout).clean(server))}
        if run_id.startswith(PENDING):  # the record waits for the server
            return away
        try:
            _, experiment = reach(self._checkout)
        except Exception:  # noqa: BLE001 -- a page is not worth a run
            return away
        address = redactor(self._checkout).clean(f"{server}/#/experiments/{experiment}/runs/{run_id}")
        return {"mlflow-run": ("MLflow run", address), "report": ("Report", f"{address}/artifacts/report.html")}

    def _begun(self) -> tuple[str, Path] | None:
        """The stage that wrote its log last, in the newest run's folder of logs."""
        folders = sorted(self._workspace.logs.glob(RUN_FOLDER))
        logs = [(log.stat().st_mtime, name, log) for name in STAGE_NAMES if folders and (log := folders[-1] / f"{name}.log").is_file()]
        if not logs:
            return None
        _, stage, log = max(logs)
        return stage, log

    def _show(self, share: float, words: str) -> None:
        words = redactor(self._checkout).clean(words)[:300] or "under way"

        def write() -> None:
            if self._progress is None:
                self._progress = _id(create_progress_artifact(100 * share, key="progress", description=words))
            else:
                update_progress(self._progress, 100 * share, description=words)

        self._write(write)

    def _text(self, text: str) -> str:
        return MARKDOWN.sub(r"\\\1", html.escape(printable(" ".join(redactor(self._checkout).clean(text).split())), quote=False))

    def _write(self, write: Callable[[], Any]) -> None:
        try:
            write()
        except Exception as error:  # noqa: BLE001 -- a page is not worth a run
            if not self._failed:
                self._failed = True
                why = redactor(self._checkout).clean(" ".join(str(error).split()))[:200]
                self._log(f"the run's page on Prefect can't be written ({type(error).__name__}: {why}); the run continues")


def _id(made: Any) -> UUID:
    assert isinstance(made, UUID), "called from a thread without an event loop, where Prefect's call is a plain one"
    return made
