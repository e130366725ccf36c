"""Promotion and rollback, killed between any two writes and recovered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.checkout import Checkout
from components.errors import UserError
from components.registry import aliases
from components.registry.aliases import PROMOTED_AT, ROLLED_BACK, VERDICT
from components.registry.registry import Registry
from components.registry.versions import CHALLENGER, CHAMPION, PREVIOUS, Version

VERDICT_TAGS = {"mmalign.reasons": '["better"]'}


class Killed(BaseException):
    """The process ends here."""


class Dying:
    """A registry that dies at its n-th write."""

    def __init__(self, registry: Registry, writes: int) -> None:
        self._registry = registry
        self._left = writes

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._registry, name)
        if name not in {"tag", "set_alias", "drop_alias"}:
            return method
        if name == "tag":  # one write a tag
            return self._tag
        return lambda *arguments: self._write(lambda: method(*arguments))

    def _tag(self, name: Any, number: int, tags: dict[str, str | None]) -> None:
        for key, value in tags.items():
            self._write(lambda key=key, value=value: self._registry.tag(name, number, {key: value}))  # type: ignore[misc]

    def _write(self, write: Callable[[], None]) -> None:
        if self._left == 0:
            raise Killed
        self._left -= 1
        write()


@pytest.fixture
def registry(checkout: Path, tiny_base: Path) -> Registry:
    opened = Registry(Checkout(checkout))
    for _ in range(3):
        opened.register("mm-policy", tiny_base, whole=False, run_id=None, tags={})
    return opened


def champion_of(registry: Registry) -> int | None:
    version = registry.at("mm-policy", CHAMPION)
    return None if version is None else version.number


def previous_of(registry: Registry) -> int | None:
    version = registry.at("mm-policy", PREVIOUS)
    return None if version is None else version.number


def promote(registry: Any, number: int) -> None:
    version: Version = registry.version("mm-policy", number)
    aliases.promote(registry, version, registry.at("mm-policy", CHAMPION), VERDICT_TAGS, by="a test", because="it is better")


def test_rollbacks_restore_predecessors_one_by_one(registry: Registry) -> None:
    for number in (1, 2, 3):
        promote(registry, number)
    assert (champion_of(registry), previous_of(registry)) == (3, 2)
    assert registry.at("mm-policy", CHALLENGER) is None
    rolled_back, back = aliases.rollback(registry, "mm-policy", by="a test", because="it was worse")
    assert (rolled_back.number, back.number) == (3, 2)
    assert ROLLED_BACK in rolled_back.tags
    assert (champion_of(registry), previous_of(registry)) == (2, 1)
    aliases.rollback(registry, "mm-policy", by="a test", because="it was worse")
    assert (champion_of(registry), previous_of(registry)) == (1, None)
    with pytest.raises(UserError, match="has no predecessor"):
        aliases.rollback(registry, "mm-policy", by="a test", because="")


def test_rollback_without_champion_is_refused(registry: Registry) -> None:
    with pytest.raises(UserError, match="has no champion"):
        aliases.rollback(registry, "mm-policy", by="a test", because="")


def test_promotion_killed_between_writes_is_recovered(registry: Registry) -> None:
    promote(registry, 1)
    number, ended = 0, False
    while not ended:
        try:
            promote(Dying(registry, number), 2)
            ended = True
        except Killed:
            pass
        assert champion_of(registry) in {1, 2}, number
        begun = VERDICT in registry.version("mm-policy", 2).tags
        aliases.recover(registry, "mm-policy", print)
        assert aliases.is_whole(registry, "mm-policy")
        assert champion_of(registry) == (2 if begun else 1), number
        assert previous_of(registry) == (1 if begun else None), number
        if begun and not ended:  # back to before, by hand
            registry.set_alias("mm-policy", CHAMPION, 1)
            registry.drop_alias("mm-policy", PREVIOUS)
            registry.tag("mm-policy", 2, dict.fromkeys((PROMOTED_AT, VERDICT)))
        number += 1
    assert number > 8
    assert champion_of(registry) == 2


def test_rollback_killed_between_writes_is_recovered(registry: Registry) -> None:
    for number in (1, 2, 3):
        promote(registry, number)
    for writes in range(4):
        with pytest.raises(Killed):
            aliases.rollback(Dying(registry, writes), "mm-policy", by="a test", because="worse")  # type: ignore[arg-type]
        assert champion_of(registry) in {2, 3}
        begun = ROLLED_BACK in registry.version("mm-policy", 3).tags
        aliases.recover(registry, "mm-policy", print)
        assert (champion_of(registry), previous_of(registry)) == ((2, 1) if begun else (3, 2)), writes
        registry.set_alias("mm-policy", CHAMPION, 3)
        registry.set_alias("mm-policy", PREVIOUS, 2)
        registry.tag("mm-policy", 3, {ROLLED_BACK: None})


def test_one_of_two_promotions_at_once_wins(registry: Registry) -> None:
    promote(registry, 1)
    judged_against = registry.at("mm-policy", CHAMPION)
    promote(registry, 2)
    with pytest.raises(UserError, match="another champion after"):
        aliases.promote(registry, registry.version("mm-policy", 3), judged_against, VERDICT_TAGS, by="a test", because="better")
    aliases.recover(registry, "mm-policy", print)
    assert (champion_of(registry), previous_of(registry)) == (2, 1)
    assert PROMOTED_AT not in registry.version("mm-policy", 3).tags
