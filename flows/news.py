"""Whether there are data that no finished run has seen: the cheap look of `on-new-data`. Nothing is trained or written for it."""

from __future__ import annotations

from pathlib import Path

import yaml

from components.processes.marks import checkout_mark
from components.storage.data_version import DATA_FILE, data_state
from components.tracking.store import connect
from flows.parameters import NightParameters
from flows.workplace import fetched_file


def data_news(root: Path, run: NightParameters) -> str | None:
    """What is new, in words; None where the last finished run had these very data. Raises what a store that is away raises."""
    last = last_finished_version(root if run.source == "checkout" else None, root)
    if run.source == "git":
        now = pinned_version(fetched_file(root, run, DATA_FILE))
    else:
        state = data_state(root)
        if state.changed or state.added:
            return f"{len(state.changed)} files of data/ changed and {len(state.added)} came in since version {state.version}"
        now = state.version
    if now is None or now == last:
        return None
    return f"data version {now}; the last finished run had {last or 'none'}"


def pinned_version(text: str | None) -> str | None:
    """The version that a data.dvc's text names."""
    if text is None:
        return None
    outs = yaml.safe_load(text).get("outs") or [{}]
    return str(outs[0]["md5"]) if outs[0].get("md5") else None


def last_finished_version(of: Path | None, root: Path) -> str | None:
    """The data version of the last run that finished: in the checkout `of`, or anywhere in its store where that is None."""
    client, experiment = connect(root)
    query = "tags.`mmalign.origin` = 'mmalign run' and attributes.status = 'FINISHED'"
    if of is not None:
        query += f" and tags.`mmalign.checkout` = '{checkout_mark(of)}'"
    found = client.search_runs([experiment], query, max_results=1, order_by=["attributes.end_time DESC"])
    return found[0].data.tags.get("dvc.data") if found else None
