"""Whether data exist that no finished run has used: the cheap poll of `on-new-data`. It trains and writes nothing."""

from __future__ import annotations

import yaml

from components.checkout import Checkout
from components.processes.marks import checkout_mark
from components.storage.data_version import DATA_FILE, data_state
from components.tracking.store import connect
from flows.parameters import RunParameters
from flows.workspace import fetched_file


def describe_new_data(checkout: Checkout, run: RunParameters) -> str | None:
    """A sentence on the new data; None where the last finished run had these very data. Raises MLflow's errors where the store is away."""
    last = last_finished_version(checkout, anywhere=run.source != "checkout")
    if run.source == "git":
        version = pinned_version(fetched_file(checkout, run, DATA_FILE))
    else:
        state = data_state(checkout)
        if state.changed or state.added:
            return f"{len(state.changed)} files of data/ changed and {len(state.added)} are new since version {state.version}"
        version = state.version
    if version is None or version == last:
        return None
    return f"data version {version}; the last finished run had {last or 'none'}"


def pinned_version(text: str | None) -> str | None:
    """The data version in the text of a data.dvc."""
    if text is None:
        return None
    outs = yaml.safe_load(text).get("outs") or [{}]
    return str(outs[0]["md5"]) if outs[0].get("md5") else None


def last_finished_version(checkout: Checkout, *, anywhere: bool) -> str | None:
    """The data version of the last finished run of `checkout`, or with `anywhere` of any checkout that records in its store."""
    client, experiment = connect(checkout)
    query = "tags.`mmalign.origin` = 'mmalign run' and attributes.status = 'FINISHED'"
    if not anywhere:
        query += f" and tags.`mmalign.checkout` = '{checkout_mark(checkout)}'"
    runs = client.search_runs([experiment], query, max_results=1, order_by=["attributes.end_time DESC"])
    return runs[0].data.tags.get("dvc.data") if runs else None
