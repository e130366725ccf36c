"""What a stage gives the engine of inference: items, the batches that they are computed in, and where their results are kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from components.engine.ranks import Ranks


class Store(Protocol):
    """Values by content key. What is stored is there for every process, and survives a kill."""

    def find(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values that are there, by key."""
        ...

    def store(self, values: Mapping[str, Any]) -> None:
        """Keep all of `values`, or none of them."""
        ...


@dataclass
class Work:
    """Counts what the model was run on: `tokens` in `slots` positions of a batch, `targets` of the head, `pairs` of attention."""

    tokens: int = 0
    slots: int = 0
    targets: int = 0
    pairs: int = 0

    def add(self, tokens: int, slots: int, targets: int = 0, pairs: int = 0) -> None:
        """Count a pass over `slots` positions, of which `tokens` held a token; what is not counted of head and attention makes MFU smaller."""
        self.tokens += tokens
        self.slots += slots
        self.targets += targets
        self.pairs += pairs


@dataclass
class InferenceTask(ABC):
    """Items with a key each, computed in batches.

    A batch's make-up follows from all items, never from what is known already or from the number of ranks: so a killed run, and a run on
    more ranks, compute with the same company and the same bits. It changes, and with it the last bits of what is computed anew, where
    items are added.
    """

    label: str  # what the progress bar says is being made
    unit: str
    keys: list[str]  # of everything that an item's result depends on
    store: Store
    work: Work = field(default_factory=Work, init=False)

    @abstractmethod
    def plan(self) -> list[list[int]]:
        """Batches of item indices over all items."""

    def prepare(self, items: Sequence[int]) -> None:  # noqa: B027 - most tasks need nothing
        """Called once, by the process that starts the ranks, with all items that have no value yet: what servers write is asked for here."""

    @abstractmethod
    def compute(self, items: Sequence[int], ranks: Ranks) -> list[Any]:
        """The value of each item, as JSON holds it. Counts what it runs in `work`."""

    @abstractmethod
    def operations(self) -> float:
        """Floating-point operations of the passes that `work` counts, once the model is open."""

    def finish(self) -> None:  # noqa: B027 - most stores write at once
        """Called when no batch is left for this process, or its run is ended early: what waits to be written has to go out."""

    def size(self, item: int) -> int:  # noqa: ARG002 - items count alike unless a task says otherwise
        """How many units an item counts."""
        return 1

    def results(self) -> list[Any]:
        """The value of each item, in order. Raises KeyError where one was not computed."""
        values = self.store.find(self.keys)
        return [values[key] for key in self.keys]
