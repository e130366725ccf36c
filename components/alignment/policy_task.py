"""Log-probs of the training responses under the aligned policy, as a task of inference beside the reference's and kept in the same store.

They say what became of each pair, and are the reference log-probs of a training that starts from this policy.
"""

from __future__ import annotations

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
from components.preferences.record import read_queries


def build(settings: Settings, checkout: Checkout, arguments: Any = None) -> list[ReferenceTask]:
    """The one task: all training responses under the model that the stage has just written."""
    assert arguments is None
    base, folder = checkout.root / settings.model.base, checkout.policy
    preprocessor = Preprocessor(base, checkout.preferences, settings.model, settings.features)
    queries = read_queries(checkout.queries("train"))
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
