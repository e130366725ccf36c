"""The paper's arithmetic: macro means of benchmarks before and after alignment, their relative change, and what was printed of them.

A printed figure is *exact* where the rows give it when rounded to its digits; *from rounded means* where the printed means give it, and not
the rows; *within rounding* where rounding of the rows explains it; else it *can't be reproduced* from the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Literal

from components.benches.catalogue import HUNDRED, catalogue
from components.benches.tables import Averages, PrintedMean, Results
from components.errors import UserError

Reproduced = Literal["exact", "from rounded means", "within rounding", "not reproduced"]
MEAN_PLACES, RELATIVE_PLACES = Decimal("0.01"), Decimal("0.001")


@dataclass(frozen=True)
class Rounded:
    """A value, and by how much the rounding of what it was computed from can have moved it."""

    value: Decimal
    slack: Decimal

    @staticmethod
    def of(figure: Decimal) -> Rounded:
        """A figure that was rounded to its last digit."""
        return Rounded(figure, half_unit(figure))


def half_unit(figure: Decimal) -> Decimal:
    """Half a unit of a figure's last digit."""
    exponent = figure.as_tuple().exponent
    assert isinstance(exponent, int), "figures are finite"
    return Decimal(1).scaleb(exponent) / 2


def to_digits(value: Decimal, like: Decimal) -> Decimal:
    """`value` rounded, half up, to the digits of `like`."""
    return value.quantize(Decimal(1).scaleb(int(like.as_tuple().exponent)), ROUND_HALF_UP)


def average(parts: list[Rounded], weights: list[Decimal]) -> Rounded:
    """The weighted mean of rounded values."""
    whole = sum(weights, Decimal(0))
    value = sum((part.value * weight for part, weight in zip(parts, weights, strict=True)), Decimal(0))
    slack = sum((part.slack * weight for part, weight in zip(parts, weights, strict=True)), Decimal(0))
    return Rounded(value / whole, slack / whole)


def relative(before: Rounded, after: Rounded) -> Rounded | None:
    """after / before - 1; None for a `before` that is 0 within its rounding."""
    if before.value - before.slack <= 0:
        return None
    value = after.value / before.value - 1
    lowest = (after.value - after.slack) / (before.value + before.slack) - 1
    highest = (after.value + after.slack) / (before.value - before.slack) - 1
    return Rounded(value, max(value - lowest, highest - value))


def reproduced(computed: Rounded, printed: Decimal, of_means: Decimal | None = None) -> Reproduced:
    """How a printed figure follows from the rows; `of_means` is what the printed means give."""
    if to_digits(computed.value, printed) == printed:
        return "exact"
    if of_means is not None and to_digits(of_means, printed) == printed:
        return "from rounded means"
    return "within rounding" if abs(computed.value - printed) <= computed.slack + half_unit(printed) else "not reproduced"


def aggregate(results: Results, model: str | None = None) -> dict[str, Any]:
    """All means of `model` (the file's own, where None), what was printed beside them, and the same of the other models."""
    chosen = model or results.model
    if chosen not in results.models:
        raise UserError(f"the file has no model '{chosen}': name one of {', '.join(results.models)}")
    of_models = {name: _means(results, name) for name in results.models}
    averages = [entry for table in results.averages for entry in _averages(table)]
    printed_figures = [
        {"model": name, "mean": mean, "where": where, "figure": figure, **entry}
        for name, means in of_models.items()
        for mean, values in means.items()
        for where, printed in values["printed"].items()
        for figure, entry in printed.items()
    ] + averages
    return {
        "title": results.title,
        "model": chosen,
        "dimensions": of_models[chosen],
        "models": of_models,
        "averages": averages,
        "printed_figures": len(printed_figures),
        "from_rounded_means": [entry for entry in printed_figures if entry["reproduced"] == "from rounded means"],
        "not_reproduced": [entry for entry in printed_figures if entry["reproduced"] == "not reproduced"],
    }


def _means(results: Results, model: str) -> dict[str, Any]:
    changes, means = results.changes(model), {}
    for name, mean in catalogue().means.items():
        members = catalogue().members(name)
        missing = [metric.row for metric in members if metric.row not in changes]
        entry: dict[str, Any] = {"dimension": mean.dimension, "direction": mean.direction, "rows": [metric.row for metric in members]}
        entry |= {"missing": missing, "before": None, "after": None, "relative": None, "printed": {}}
        if not missing:
            before, after = (
                average([_of_hundred(changes[metric.row][side], metric.top) for metric in members], [Decimal(1)] * len(members))
                for side in (0, 1)
            )
            change = relative(before, after)
            entry |= {"before": _places(before.value, MEAN_PLACES), "after": _places(after.value, MEAN_PLACES)}
            entry["relative"] = None if change is None else _places(change.value, RELATIVE_PLACES)
            for printed in results.printed:
                if printed.model == model and name in printed.means:
                    entry["printed"][printed.name] = _beside(printed.means[name], before, after, change)
        means[name] = entry
    return means


def _of_hundred(figure: Decimal, top: float) -> Rounded:
    scale = Decimal(str(HUNDRED)) / Decimal(str(top))
    return Rounded(figure * scale, half_unit(figure) * scale)


def _beside(printed: PrintedMean, before: Rounded, after: Rounded, change: Rounded | None) -> dict[str, Any]:
    entries = {
        figure: {
            "printed": float(value),
            "computed": _places(computed.value, half_unit(value) * 2 / 10),
            "reproduced": reproduced(computed, value),
        }
        for figure, value, computed in (("before", printed.before, before), ("after", printed.after, after))
    }
    if printed.relative is not None and change is not None:
        of_means = printed.after / printed.before - 1
        entries["relative"] = {
            "printed": float(printed.relative),
            "computed": _places(change.value, half_unit(printed.relative) * 2 / 10),
            "of_printed_means": _places(of_means, half_unit(printed.relative) * 2 / 10),
            "reproduced": reproduced(change, printed.relative, of_means),
        }
    return entries


def _averages(table: Averages) -> list[dict[str, Any]]:
    entries = []
    for row, cells in table.rows.items():
        printed = cells[table.mean]
        computed = average([Rounded.of(cells[part]) for part in table.weights], list(table.weights.values()))
        entries.append(
            {
                "model": row,
                "mean": table.mean,
                "where": table.name,
                "figure": table.mean,
                "printed": float(printed),
                "computed": _places(computed.value, half_unit(printed) * 2 / 10),
                "reproduced": reproduced(computed, printed),
            }
        )
    return entries


def _places(value: Decimal, unit: Decimal) -> float:
    return float(value.quantize(unit.normalize(), ROUND_HALF_UP))
