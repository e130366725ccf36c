"""Log-probs of training responses under the aligned policy, as a task of inference beside the reference's and kept in the same store.

They say what became of the pairs, and are reference log-probs of a training that starts from this policy. A forward pass over all training
queries costs a sixth of a training of two epochs, so that `alignment.diagnosed_queries` of them are measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from components.alignment.reference_store import ReferenceStore, store_key
from components.alignment.reference_task import ReferenceTask, reference_context
from components.checkout import Checkout
from components.config.settings import Settings
from components.engine.models import OneModel
from components.families.digests import model_digest
from components.families.processing import Preprocessor
from components.features.cache import attach_features
from components.files import digest_bytes
from components.preferences.query_table import open_queries


def diagnosed(ids: Iterable[str], most: int | None) -> list[str]:
    """At most `most` of the queries' ids, ascending: those whose hashes come first, so that the choice depends on no other query."""
    chosen = sorted(set(ids), key=digest_bytes)
    return sorted(chosen[:most])


def build(settings: Settings, checkout: Checkout, arguments: Any) -> list[ReferenceTask]:
    """The one task: the responses of the queries with the ids `arguments`, under the model that the stage has just written."""
    ids = frozenset(arguments)
    base, folder = checkout.root / settings.model.base, checkout.policy
    preprocessor = Preprocessor(base, checkout.preferences, settings.model, settings.features)
    queries = [query for query in open_queries(checkout, "train") if query.id in ids]
    # The base's tower is the policy's, or features are off.
    attach_features(preprocessor, base, queries, settings, checkout, ranks=settings.reference.ranks)
    context = replace(reference_context(settings, base, preprocessor), model=model_digest(folder))
    return [
        ReferenceTask(
            label="log-probs under the policy",
            unit="query",
            keys=[store_key(query) for query in queries],
            store=ReferenceStore(checkout, context),
            queries=queries,
            preprocessor=preprocessor,
            models=OneModel(settings),
            folder=folder,
            settings=settings,
        )
    ]
