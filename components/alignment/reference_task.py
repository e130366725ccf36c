"""Reference log-probs of all responses of both splits, as tasks of inference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.alignment.log_probs import LogProbTask, computed_in
from components.alignment.reference_store import Context, ReferenceStore, store_key
from components.checkout import Checkout
from components.closures import code_digest
from components.config.settings import Settings
from components.engine.models import OneModel
from components.families.digests import model_digest, processor_digest
from components.families.processing import Preprocessor
from components.features.cache import attach_features
from components.files import digest_bytes
from components.preferences.record import Query, read_queries

SPLITS = ("train", "heldout")


@dataclass
class ReferenceTask(LogProbTask):
    """Log-probs under the base model, kept in the reference store."""

    store: ReferenceStore

    def finish(self) -> None:
        """Write the last entries."""
        self.store.flush()


def build(settings: Settings, checkout: Checkout, arguments: Any = None) -> list[ReferenceTask]:
    """A task for each split, with one model and one store; with an image term, one more for the training queries under gray media."""
    assert arguments is None
    base = checkout.root / settings.model.base
    preprocessor = Preprocessor(base, checkout.preferences, settings.model, settings.features)
    queries = {split: read_queries(checkout.queries(split)) for split in SPLITS}
    every = [query for split in SPLITS for query in queries[split]]
    attach_features(preprocessor, base, every, settings, checkout, ranks=settings.reference.ranks)
    models, store = OneModel(settings), ReferenceStore(checkout, reference_context(settings, base, preprocessor))

    def task(label: str, chosen: Sequence[Query], *, blank: bool = False) -> ReferenceTask:
        keys = [store_key(query, blank=blank) for query in chosen]
        shared: dict[str, Any] = {"store": store, "preprocessor": preprocessor, "models": models, "folder": base, "settings": settings}
        return ReferenceTask(label=f"reference log-probs, {label}", unit="query", keys=keys, queries=chosen, blank=blank, **shared)

    tasks = [task(split, queries[split]) for split in SPLITS]
    if settings.alignment.image_weight:
        tasks.append(task("gray media", [query for query in queries["train"] if query.media], blank=True))
    return tasks


def reference_context(settings: Settings, base: Path, preprocessor: Preprocessor) -> Context:
    """What the base's log-probs depend on beside queries and responses."""
    return Context(
        code=code_digest("reference"),
        model=model_digest(base),
        processor=processor_digest(base),
        template=digest_bytes(str(preprocessor.processor.chat_template)),
        dtype=computed_in(settings),
        max_length=settings.model.max_length,
        max_frames=settings.model.max_frames,
        background=settings.model.background,
        row_tokens=settings.training.row_tokens,
    )
