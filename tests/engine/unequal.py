"""The real reward and alignment tasks in steps whose ranks have unequal work, and what DeepSpeed gathers on each rank meanwhile.

In every step one rank has 30-token responses without media, the other 900-token ones with pictures and videos, whose features partly found no
room in the cache. One process takes all of a step's queries in one micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from components.alignment.task import AlignmentTask
from components.checkout import Checkout
from components.config.settings import Settings
from components.engine import loop
from components.engine.task import Step, TrainingRank
from components.files import write_json
from components.preferences.record import Query, Response
from components.reward.task import RewardTask
from tests.tiny import queries as tiny_queries
from tests.tiny import showing

SHORT, LONG = 30, 900  # tokens of a response, its end among them; a critique has a third
# [rank][micro-batch][query]: those below 5 are short and without media, the others long: 5 a square picture, 6 a tall one, 7 text, 8 a video
STEPS = [[[[0], []], [[5], [8]]], [[[6]], [[1]]], [[[2], [3]], [[7], []]]]


def queries() -> list[Query]:
    """Five queries of text with short responses and critiques, then the tiny ones with long ones."""

    def texts(query: Query, length: int, **changes: Any) -> Query:
        fill = "abcdefghij klmnop" * length
        responses = [
            Response(fill[number : number + length - 1], response.rank, critique=fill[number + 3 : number + 2 + length // 3])
            for number, response in enumerate(query.responses[:2])
        ]
        return replace(query, responses=(replace(responses[0], rank=1), replace(responses[1], rank=2)), **changes)

    short = [texts(showing(query), SHORT, id=f"short{number}") for number, query in enumerate(tiny_queries())]
    return short + [texts(query, LONG) for query in tiny_queries()[:4]]


def _plan(task: Any, make: Callable[[list[list[list[int]]]], Step]) -> list[Step]:
    if task.settings.training.ranks == 2:
        return [make(step) for step in STEPS]
    return [make([[[query for rank in step for micro in rank for query in micro]]]) for step in STEPS]


class UnequalReward(RewardTask):
    """Takes STEPS."""

    def epoch_plan(self, epoch: int) -> list[Step]:  # noqa: ARG002
        return _plan(self, lambda step: Step([[(micro, self._counts(step, set())) for micro in rank] for rank in step]))


class UnequalAlignment(AlignmentTask):
    """Takes STEPS."""

    def epoch_plan(self, epoch: int) -> list[Step]:  # noqa: ARG002
        return _plan(self, self._step)


def train_reward(rank: TrainingRank) -> None:
    _counted(UnequalReward, rank)


def train_align(rank: TrainingRank) -> None:
    _counted(UnequalAlignment, rank)


def _counted(kind: Callable[[Settings, Checkout], Any], rank: TrainingRank) -> None:
    """Train, and leave the sizes of all that DeepSpeed gathered during the steps, and how often tower, projector and score head ran."""
    gathered: list[int] = []
    if rank.settings.training.engine == "deepspeed":
        from deepspeed.runtime.zero import partition_parameters

        gather = partition_parameters._dist_allgather_fn

        def counting(piece: Any, whole: Any, *arguments: Any, **named: Any) -> Any:
            gathered.append(whole.numel())
            return gather(piece, whole, *arguments, **named)

        partition_parameters._dist_allgather_fn = counting
    calls: list[str] = []
    steps: list[dict[str, Any]] = []
    take_step = loop.Loop._step

    def step(self: loop.Loop, number: int, plan: Step) -> Any:
        gathered.clear()
        calls.clear()
        record = take_step(self, number, plan)
        steps.append({"gathered": list(gathered), "calls": {name: calls.count(name) for name in sorted(set(calls))}})
        write_json(rank.checkout.root / f"gathered-{self.rank}.json", steps)
        return record

    def make(settings: Settings, checkout: Checkout) -> Any:
        task = kind(settings, checkout)
        inner = task.model.model
        parts = {"tower": inner.model.vision_tower, "projector": inner.model.multi_modal_projector, "head": inner.lm_head}
        if isinstance(task, RewardTask):
            parts["score head"] = task.model.head
        for name, part in parts.items():
            part.register_forward_pre_hook(lambda module, _, name=name: calls.append(name) if module.training else None)
        return task

    loop.Loop._step = step  # type: ignore[method-assign]
    loop.train(make, rank)
