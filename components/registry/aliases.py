"""Moves the registry's aliases: promotion, rollback, and recovery from a kill in one of them.

The order of writes keeps a working champion at any time. A promotion begins with the verdict `promoted` in a version's tags and ends with
`mmalign.promoted_at`. A rollback begins with `mmalign.rolled_back` on the champion and ends when another version is champion. `recover`
completes both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from components.errors import UserError
from components.registry.policy import ModelName
from components.registry.registry import Registry
from components.registry.versions import CHALLENGER, CHAMPION, PREVIOUS, Version

SAFEST = "safest_champion"  # alias of the champion with the fewest unsafe answers on these held-out data

VERDICT, PREDECESSOR, PROMOTED_AT = "mmalign.verdict", "mmalign.predecessor", "mmalign.promoted_at"
PROMOTED_BY, PROMOTED_BECAUSE = "mmalign.promoted_by", "mmalign.promoted_because"
ROLLED_BACK, ROLLED_BACK_BECAUSE = "mmalign.rolled_back", "mmalign.rolled_back_because"
NOBODY = "none"
TAG_CHARACTERS = 4900  # MLflow's limit is 5,000

Log = Callable[[str], None]


def promote(
    registry: Registry, version: Version, champion: Version | None, verdict: Mapping[str, str | None], *, by: str, because: str
) -> None:
    """Make `version` champion instead of `champion`, against which it was judged. `verdict` holds the tags of the judgement.

    Raises UserError when another version has become champion since: the gate did not compare with that one.
    """
    name, number = version.name, None if champion is None else champion.number
    who = {PREDECESSOR: str(number or NOBODY), PROMOTED_BY: by, PROMOTED_BECAUSE: because[:TAG_CHARACTERS]}
    registry.tag(name, version.number, {PROMOTED_AT: None, **verdict, **who})
    registry.set_alias(name, CHALLENGER, version.number)
    current = registry.at(name, CHAMPION)
    if (None if current is None else current.number) != number:
        raise UserError(f"{name} got another champion after version {version.number} was judged: the next run judges it again")
    registry.tag(name, version.number, {VERDICT: "promoted"})  # from here on `recover` completes the promotion after a kill
    _move(registry, version, champion)


def rollback(registry: Registry, name: ModelName, *, by: str, because: str) -> tuple[Version, Version]:
    """Make the predecessor champion again; returns (rolled-back version, champion). UserError where there is no predecessor."""
    champion, previous = registry.at(name, CHAMPION), registry.at(name, PREVIOUS)
    if champion is None:
        raise UserError(f"{name} has no champion: there is nothing to roll back")
    if previous is None:
        raise UserError(f"{name} version {champion.number} has no predecessor: there is nothing to roll back to")
    registry.tag(name, champion.number, {ROLLED_BACK: now(), ROLLED_BACK_BECAUSE: f"{by}: {because}"[:TAG_CHARACTERS]})
    _end_rollback(registry, previous)
    return registry.version(name, champion.number), registry.version(name, previous.number)


def recover(registry: Registry, name: ModelName, log: Log) -> None:
    """Complete a promotion or rollback that a kill cut short."""
    champion, previous = registry.at(name, CHAMPION), registry.at(name, PREVIOUS)
    if champion is not None and ROLLED_BACK in champion.tags and previous is not None:
        log(f"{name}: completing the rollback of version {champion.number}, which a kill cut short")
        _end_rollback(registry, previous)
        champion = registry.at(name, CHAMPION)
    for version in begun(registry, name):
        number = None if champion is None else champion.number
        if version.number == number or version.tags[PREDECESSOR] == str(number or NOBODY):
            log(f"{name}: completing the promotion of version {version.number}, which a kill cut short")
            _move(registry, version, champion)
            champion = registry.at(name, CHAMPION)
        else:
            registry.tag(name, version.number, {VERDICT: "superseded"})  # it was judged against an earlier champion
    if champion is not None and doubled(registry, name):
        _set_previous(registry, champion)


def is_whole(registry: Registry, name: ModelName) -> bool:
    """Whether `recover` has nothing to complete."""
    champion = registry.at(name, CHAMPION)
    return not begun(registry, name) and not doubled(registry, name) and (champion is None or ROLLED_BACK not in champion.tags)


def begun(registry: Registry, name: ModelName) -> list[Version]:
    """Versions whose promotion has begun but not ended, newest first."""
    ended = (PROMOTED_AT, ROLLED_BACK)
    return [
        version
        for version in registry.versions(name)
        if version.tags.get(VERDICT) == "promoted" and PREDECESSOR in version.tags and not any(tag in version.tags for tag in ended)
    ]


def doubled(registry: Registry, name: ModelName) -> bool:
    """Whether one version is both champion and its predecessor, as after a kill between two writes."""
    champion, previous = registry.at(name, CHAMPION), registry.at(name, PREVIOUS)
    return champion is not None and previous is not None and champion.number == previous.number


def _move(registry: Registry, version: Version, champion: Version | None) -> None:
    name = version.name
    if champion is not None and champion.number != version.number:
        registry.set_alias(name, PREVIOUS, champion.number)
    registry.set_alias(name, CHAMPION, version.number)
    registry.note_champion(version)
    registry.tag(name, version.number, {PROMOTED_AT: now()})
    if registry.at(name, CHALLENGER) is not None:
        registry.drop_alias(name, CHALLENGER)


def _end_rollback(registry: Registry, previous: Version) -> None:
    registry.set_alias(previous.name, CHAMPION, previous.number)
    registry.note_champion(previous)
    _set_previous(registry, previous)


def _set_previous(registry: Registry, champion: Version) -> None:
    """Point `previous_champion` to the champion's predecessor, if that one still exists and was not rolled back."""
    by_number = {str(version.number): version for version in registry.versions(champion.name)}
    wanted = by_number.get(champion.tags.get(PREDECESSOR, NOBODY))
    if wanted is not None and ROLLED_BACK not in wanted.tags:
        registry.set_alias(champion.name, PREVIOUS, wanted.number)
    elif registry.at(champion.name, PREVIOUS) is not None:
        registry.drop_alias(champion.name, PREVIOUS)


def now() -> str:
    """The current time in UTC, for tags."""
    return datetime.now(UTC).isoformat(timespec="seconds")
