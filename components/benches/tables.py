"""A table of results before and after alignment, as a file: the paper's own, or a team's.

- `tables`: rows by the names of the catalogue, for each of `models` a pair [before, after].
- `printed`, optional: figures that somebody printed from the rows, to compare with.
- `averages`, optional: rows of a table whose last figure is a weighted mean of the others.

Numbers are read as they are written, in decimals: the digits of a figure say how far it was rounded.
"""

from __future__ import annotations

import difflib
import json
from decimal import Decimal
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.benches.catalogue import catalogue
from components.errors import UserError

Figure = Annotated[Decimal, Field(allow_inf_nan=False)]
Change = tuple[Figure, Figure]  # before and after


class Part(BaseModel):
    """A part of the file. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Table(Part):
    """Rows of results, each with a change for every model."""

    name: str
    source: str = ""
    models: tuple[str, ...]
    rows: dict[str, tuple[Change, ...]]


class PrintedMean(Part):
    """A mean as somebody printed it; `relative` is after / before - 1."""

    before: Figure
    after: Figure
    relative: Figure | None = None


class Printed(Part):
    """Printed means of one model, by their names in the catalogue."""

    name: str
    source: str = ""
    model: str
    means: dict[str, PrintedMean]


class Averages(Part):
    """A table whose figure `mean` is the mean of the row's others with these weights."""

    name: str
    source: str = ""
    mean: str
    weights: dict[str, Figure]
    rows: dict[str, dict[str, Figure]]


class Results(Part):
    """The whole file; `model` is the one that a summary is about."""

    title: str
    model: str
    tables: tuple[Table, ...]
    printed: tuple[Printed, ...] = ()
    averages: tuple[Averages, ...] = ()

    @property
    def models(self) -> tuple[str, ...]:
        """All models, in the order in which tables name them."""
        return tuple(dict.fromkeys(model for table in self.tables for model in table.models))

    def changes(self, model: str) -> dict[str, Change]:
        """The changes of a model by row."""
        return {
            row: values[table.models.index(model)] for table in self.tables if model in table.models for row, values in table.rows.items()
        }


def read_results(path: Path) -> Results:
    """Read and check a file. Raises UserError with file and key."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"), parse_float=Decimal, parse_int=Decimal)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: name a file of results in the form of tests/golden/mm_rlhf_tables.json") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON: {error}") from error
    try:
        results = Results.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    _check(results, path)
    return results


def _check(results: Results, path: Path) -> None:
    if results.model not in results.models:
        raise UserError(f"{path}: model '{results.model}' is in no table: name one of {', '.join(results.models)}")
    seen: set[str] = set()
    for table in results.tables:
        for row, values in table.rows.items():
            _check_row(row, f"{path}: {table.name}")
            if len(values) != len(table.models):
                raise UserError(
                    f"{path}: {table.name}: row '{row}' has {len(values)} pairs for {len(table.models)} models: give each one pair"
                )
        twice = sorted(seen & table.rows.keys())
        seen |= table.rows.keys()
        if twice:
            raise UserError(f"{path}: row '{twice[0]}' stands in two tables: leave one out")
    _check_printed(results, path)


def _check_printed(results: Results, path: Path) -> None:
    for printed in results.printed:
        unknown = printed.means.keys() - catalogue().means.keys()
        if unknown or printed.model not in results.models:
            raise UserError(
                f"{path}: printed figures of {printed.name} name {', '.join(sorted(unknown)) or printed.model}, which no table has"
            )
    for averages in results.averages:
        for row, cells in averages.rows.items():
            if cells.keys() != {*averages.weights, averages.mean}:
                raise UserError(
                    f"{path}: {averages.name}: row '{row}' must have {', '.join(averages.weights)} and {averages.mean}, and no more"
                )


def _check_row(row: str, where: str) -> None:
    rows = catalogue().rows()
    if row not in rows:
        near = difflib.get_close_matches(row, list(rows), n=1, cutoff=0)[0]
        raise UserError(f"{where}: the catalogue has no row '{row}'; did you mean '{near}'? `mmalign bench list` shows all")
