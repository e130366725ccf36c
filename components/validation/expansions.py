"""The expansions of reasons that lie beside the rows, checked like the reasons themselves, as a table for the reward stage."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from components.preferences.expansions import FILE, Key, matching, read_expansions, write_expanded_table
from components.preferences.faults import RowError
from components.preferences.record import Query
from components.validation.lengths import LengthCheck

log = logging.getLogger(__name__)


def write_expansions_of(queries: Sequence[Query], folder: Path, table: Path, load: Callable[[], LengthCheck]) -> dict[str, int]:
    """Write the usable expansions of `queries` to `table`; the counts for the stage's metrics, none without a file.

    An expansion is left out where its response or reason has changed since, and where it does not fit or holds a special token.
    """
    file = folder / FILE
    if not file.is_file():
        write_expanded_table(table, {})
        return {}
    expansions = read_expansions(file)
    current = matching(queries, expansions)
    lengths = load()
    usable: dict[Key, str] = {}
    for query in queries:
        own = {index: current[query.id, index] for index in range(len(query.responses)) if (query.id, index) in current}
        if not own:
            continue
        for index, critique in own.items():
            responses = list(query.responses)
            responses[index] = replace(responses[index], critique=critique)
            try:
                lengths.check(replace(query, responses=tuple(responses)))
            except RowError as fault:
                log.warning("%s: the expansion of %s, response %d, is left out: %s", file.name, query.id, index, fault)
                continue
            usable[query.id, index] = critique
    write_expanded_table(table, usable)
    reasons = sum(bool(response.critique) for query in queries for response in query.responses)
    return {"expanded": len(usable), "expanded_outdated": len(expansions) - len(current), "expanded_missing": reasons - len(usable)}
