"""Renders reports/report.html from the files of a run.

The page is one file with style, plots and images inside; its content security policy lets it load nothing. The template engine escapes all
texts. The only markup that passes are the drawings of `plots`.
"""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path

from components.checkout import Checkout
from components.files import is_writable, write_atomic
from components.printable import printable_all
from components.report.curves import training_curves
from components.report.data import read_data
from components.report.gate import read_gate
from components.report.lineage import read_lineage
from components.report.metrics import evidence, read_answers, read_metrics
from components.report.pairs import pair_plots
from components.report.record import Record, read_record
from components.report.samples import read_samples
from components.report.seeds import seeds_section
from components.report.settings import read_settings
from components.report.verdict import read_verdict
from components.report.wording import capitalized, count, number

REPORT = Path("reports") / "report.html"
TEMPLATE = "page.html.j2"


def render_report(checkout: Checkout) -> Path:
    """Write the page of the last run in `checkout`; returns its path. Raises UserError without a run.

    Where this user can't write to the checkout, the page lies in a temporary folder of this user.
    """
    text = page(read_record(checkout))
    path = checkout.root / REPORT
    if not is_writable(path.parent):
        path = Path(tempfile.mkdtemp(prefix="mmalign-")) / REPORT.name
    write_atomic(path, text)
    return path


def page(record: Record) -> str:
    """The page as HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    answers = read_answers(record)
    metrics = read_metrics(record, answers)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=printable_all,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "count": count, "capitalize_first": capitalized}
    sections = {
        "verdict": read_verdict(record),
        "evidence": evidence(metrics),
        "gate": read_gate(record),
        "metrics": metrics,
        "pairs": pair_plots(record),
        "training": training_curves(record),
        "seeds": seeds_section(record.checkout) if record.finished("evaluate") else None,
        "samples": read_samples(record, answers),
        "data": read_data(record),
        "lineage": read_lineage(record),
        "settings": read_settings(record),
    }
    return environment.get_template(TEMPLATE).render(
        **sections,
        evaluated=record.finished("evaluate"),
        aligned=record.finished("align"),
        validated=record.finished("validate"),
        started=min((str(run["started"]) for run in _runs(record) if run.get("started")), default=None),
        rendered=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        notes=record.notes,
    )


def _runs(record: Record) -> list[dict[str, object]]:
    return [dict(record.run(stage)) for stage, entry in record.summary["stages"].items() if entry.get("status") == "ran"]
