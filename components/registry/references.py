"""The model that a challenger is compared with: the champion, or what is left where its record is gone.

Somebody may delete a champion's version, take its alias away, put the alias on another version, remove its files, or delete or rename the whole
registered model. The registered model and the experiment keep tags that name the last champion, so that this is noticed. Without the champion a
challenger is compared with the version of that tag, the previous champion and the safest champion, with each of those that can still be
evaluated. With none of them left nothing is promoted until a person names a champion.
"""

from __future__ import annotations

from dataclasses import dataclass

from components.registry.aliases import PROMOTED_AT, ROLLED_BACK, SAFEST
from components.registry.policy import ModelName
from components.registry.registry import Registry
from components.registry.versions import CHAMPION, PREVIOUS, Version


@dataclass(frozen=True)
class References:
    """`champion` is the version with the alias; `fallbacks` take its place where it is gone; `notes` say what is gone, and the cure."""

    champion: Version | None
    fallbacks: tuple[Version, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def lost(self) -> bool:
        """Whether there was a champion, and neither it nor anything that may take its place is left."""
        return bool(self.notes) and self.champion is None and not self.fallbacks


def find_references(registry: Registry, name: ModelName) -> References:
    """What the registry has of a model's champion."""
    versions = registry.versions(name)
    numbers = {version.number: version for version in versions}
    champion = next((version for version in versions if CHAMPION in version.aliases), None)
    recorded = registry.last_champion(name)
    if recorded is None and champion is None:
        last = registry.champion_of_experiment(name)
        if last is not None and last[1] not in {version.digest for version in versions}:
            return References(None, (), (_without_model(name, last[0]),))
        promoted = [version.number for version in versions if PROMOTED_AT in version.tags and ROLLED_BACK not in version.tags]
        recorded = max(promoted, default=None)
    if recorded is None or (champion is not None and champion.number == recorded):
        return References(champion)
    left = [numbers.get(recorded), *(version for alias in (PREVIOUS, SAFEST) for version in versions if alias in version.aliases)]
    unique = {version.number: version for version in left if version is not None and ROLLED_BACK not in version.tags}
    if champion is not None:
        unique.pop(champion.number, None)
        deleted = "" if recorded in numbers else f", and version {recorded} was deleted"
        others = "".join(f" and with version {number}" for number in unique)
        moved = f"the alias {CHAMPION} of {name} was moved by hand from version {recorded} to {champion.number}{deleted}"
        return References(champion, tuple(unique.values()), (f"{moved}: the challenger is compared with it{others}",))
    deleted = f"version {recorded}, the champion of {name}, was deleted"
    what = f"version {recorded} of {name} lost its alias {CHAMPION}" if recorded in numbers else deleted
    if unique:
        names = " and ".join(f"version {number}" for number in unique)
        cure = f"the challenger is compared with {names} instead"
    else:
        cure = f"name another with `mmalign promote {name} VERSION --override --because ...`; until then nothing is promoted"
    return References(None, tuple(unique.values()), (f"{what}: {cure}",))


def _without_model(name: ModelName, number: int) -> str:
    return (
        f"the registered model {name}, whose version {number} is the champion, was deleted or renamed: give it its name back on MLflow's page, "
        f"or name another champion with `mmalign promote {name} VERSION --override --because ...`; until then nothing is promoted"
    )
