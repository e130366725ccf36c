"""The facts of data/truth can be read, and belong to rows: a mistake in them would show after all training."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from components.errors import UserError
from components.operations.doctor.findings import Finding, ok, problem, warning
from components.operations.preconditions.situation import Situation

SHOWN = 3


def ground_truth(situation: Situation) -> Finding:
    """Every line of the file is a fact, and every id is that of a held-out row, or of any row where no file holds rows out."""
    path = situation.checkout.ground_truth
    if "evaluate" not in situation.stages or "ground_truth" not in situation.settings.evaluate.judges:
        return ok("no stage reads facts")
    if not path.is_file():
        return ok("no file of facts: the judge does without")
    from components.evaluation.judge import read_ground_truth

    name = path.relative_to(situation.checkout.root).as_posix()
    try:
        identities = list(read_ground_truth(path))
    except UserError as error:
        return problem(str(error), "`evaluate` would stop there after all training")
    folder = situation.checkout.preferences
    rows = next((file for file in (folder / "heldout.jsonl", folder / "data.jsonl") if file.is_file()), None)
    if rows is None:
        return ok(f"{name}: {len(identities):,} facts; no row can be read yet")
    sentence = unmatched(identities, row_ids(rows), rows.name)
    if sentence is not None:
        return warning(f"{name}: {sentence}", "correct the ids, or remove those lines: nothing is judged by them")
    return ok(f"{name}: {len(identities):,} facts, each of a row in {rows.name}")


def unmatched(identities: Collection[str], rows: Collection[str], file: str) -> str | None:
    """How many ids of facts are of no row, with examples and the id that was meant, where case alone differs; None if all are of rows."""
    missing = [identity for identity in identities if identity not in rows]
    if not missing:
        return None
    by_case = {identity.casefold(): identity for identity in rows}
    near = by_case.get(missing[0].casefold())
    examples = ", ".join(ascii(identity) for identity in missing[:SHOWN])
    hint = f" (did you mean {near!a}?)" if near is not None else ""
    return f"{len(missing):,} of {len(identities):,} facts are of no row in {file}, such as {examples}{hint}"


def row_ids(path: Path) -> set[str]:
    """The ids of all rows that can be read, as validation reads them."""
    from components.preferences.json_rows import read_rows

    return {str(line.row["id"]) for line in read_rows(path) if line.row is not None and "id" in line.row}
