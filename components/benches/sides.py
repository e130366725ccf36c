"""What a person names to compare: a checkpoint's folder, a registered version, or a run of MLflow; and the tables that there are of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.benches.comparison import CORRECT, HELDOUT, Correction, Measure, Row, compare
from components.benches.record import DIGEST_CHARACTERS
from components.benches.rows import read_rows
from components.checkout import Checkout
from components.errors import UserError
from components.evaluation.results import results_key
from components.families.digests import HEAD_FILE, is_checkpoint, model_digest
from components.files import read_json
from components.registry.packaging import ModelName
from components.registry.registry import Registry
from components.registry.store import open_store
from components.registry.versions import NAMES, Version
from components.statistics import Intervals
from components.tracking.recorder import PARENT_TAG

HELDOUT_ROWS = "held-out rows"
RUN_ID = re.compile(r"[0-9a-f]{32}")
OWN_TABLES: dict[ModelName, str] = {"mm-policy": "aligned.parquet", "mm-reward": "reward.parquet"}
Evaluate = Callable[[Version, Path], None]  # writes a version's results on the held-out rows to a file


@dataclass(frozen=True)
class Side:
    """A model to compare: what it was named by, which model it is, the digest of its weights, its registered version if it has one."""

    name: str
    model: ModelName
    digest: str
    version: Version | None = None


def find_sides(checkout: Checkout, text: str) -> list[Side]:
    """The models that `text` names: one of a folder or a version, one or two of a run. Raises UserError."""
    folder = Path(text).expanduser()
    registry = Registry(checkout)
    if folder.is_dir():
        if not is_checkpoint(folder):
            raise UserError(f"{text} holds no checkpoint: name the folder of a model, such as artifacts/align/model")
        model: ModelName = "mm-reward" if (folder / HEAD_FILE).is_file() else "mm-policy"
        digest = model_digest(folder)
        return [Side(text, model, digest, next((v for v in registry.versions(model) if v.digest == digest), None))]
    if RUN_ID.fullmatch(text):
        return _of_run(checkout, registry, text)
    version = registry.resolve(text)
    return [Side(text, version.name, version.digest, version)]


def _of_run(checkout: Checkout, registry: Registry, run: str) -> list[Side]:
    """The versions that a run, or a child of it, registered."""
    versions = [version for name in NAMES for version in registry.versions(name)]
    with open_store(checkout) as (client, experiment):
        children = {entry.info.run_id for entry in client.search_runs([experiment], f"tags.`{PARENT_TAG}` = '{run}'")}
    sides = [Side(run, version.name, version.digest, version) for version in versions if version.run_id in {run, *children}]
    if not sides:
        raise UserError(f"run {run} registered no model: name a run of the stages reward or align, or of a whole `mmalign run`")
    return list({side.model: side for side in reversed(sides)}.values())


def shared_model(first: Sequence[Side], second: Sequence[Side]) -> list[tuple[Side, Side]]:
    """Sides of the same model. Raises UserError where there are none."""
    pairs = [(a, b) for a in first for b in second if a.model == b.model]
    if not pairs:
        raise UserError(
            f"{first[0].name} is {first[0].model} and {second[0].name} is {second[0].model}: compare two policies or two reward models"
        )
    return pairs


def tables_of(checkout: Checkout, side: Side, evaluate: Evaluate | None) -> dict[str, Path]:
    """The tables of a model, by benchmark: its results on today's held-out rows, and what `mmalign bench` left."""
    ending = f"-{side.digest[:DIGEST_CHARACTERS]}"
    tables = {path.stem.removesuffix(ending): path for path in sorted(checkout.bench_results.glob(f"*{ending}.parquet"))}
    heldout = _heldout(checkout, side, evaluate)
    return ({HELDOUT_ROWS: heldout} if heldout is not None else {}) | tables


def _heldout(checkout: Checkout, side: Side, evaluate: Evaluate | None) -> Path | None:
    """A model's results on today's held-out rows: of the last evaluation, of the base, of the registry, or evaluated now."""
    context_file = checkout.results / "context.json"
    if not context_file.is_file():
        return None
    evaluation: dict[str, Any] = read_json(context_file)
    if evaluation["models"].get(side.model) == side.digest:
        return checkout.results / OWN_TABLES[side.model]
    base = checkout.root / checkout.settings().model.base
    if side.model == "mm-policy" and is_checkpoint(base) and model_digest(base) == side.digest:
        return checkout.results / "base.parquet"
    if side.version is None:
        return None
    key = results_key(side.digest, evaluation["context"])
    target = checkout.bench / "results" / f"{key}.parquet"
    registry = Registry(checkout)
    if target.is_file() or registry.results(side.version, key, target) is not None:
        return target
    if evaluate is None:
        return None
    evaluate(side.version, target)
    registry.store_results(side.version, key, target)
    return target


def compare_models(
    checkout: Checkout, names: tuple[str, str], correction: Correction, intervals: Intervals, evaluate: Evaluate | None = None
) -> dict[str, Any]:
    """The comparison of two models, benchmark by benchmark, and what only one of them was run on. Raises UserError."""
    first, second = (find_sides(checkout, name) for name in names)
    tables: dict[str, tuple[Sequence[Row], Sequence[Row], Sequence[Measure]]] = {}
    one_sided: dict[str, list[str]] = {"a": [], "b": []}
    sides = shared_model(first, second)
    for a, b in sides:
        of_a, of_b = (tables_of(checkout, side, evaluate) for side in (a, b))
        one_sided["a"] += sorted(of_a.keys() - of_b.keys())
        one_sided["b"] += sorted(of_b.keys() - of_a.keys())
        for benchmark in (name for name in of_a if name in of_b):
            measures = HELDOUT if benchmark == HELDOUT_ROWS and a.model == "mm-policy" else (_measure(of_a[benchmark]),)
            title = benchmark if len(sides) == 1 else f"{benchmark}, {a.model}"
            tables[title] = (read_rows(of_a[benchmark]), read_rows(of_b[benchmark]), measures)
    if not tables:
        cure = "run `mmalign bench` on both, or add --evaluate for registered versions"
        raise UserError(f"no benchmark has results of both {names[0]} and {names[1]}: {cure}")
    models = {side: [_described(pair[number]) for pair in sides] for number, side in enumerate(("a", "b"))}
    return {**models, "only": one_sided, **compare(tables, intervals, correction)}


def _measure(table: Path) -> Measure:
    """What a table of `mmalign bench` counts, as its result says."""
    path = table.with_suffix(".json")
    result: dict[str, Any] = read_json(path) if path.is_file() else {}
    name = result.get("benchmark", {}).get("metric") or CORRECT.name
    return CORRECT._replace(name=name, direction=result.get("direction", CORRECT.direction))


def _described(side: Side) -> dict[str, Any]:
    return {"name": side.name, "model": side.model, "digest": side.digest, "version": None if side.version is None else str(side.version)}
