from __future__ import annotations

import re
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.errors import UserError
from components.registry.registry import Registry
from components.registry.versions import CHALLENGER, CHAMPION, PREVIOUS
from components.tracking import store
from tests.registry.registered import MODEL, register, size, stored
from tests.tracking.test_server import server  # noqa: F401 -- a fixture


def test_retention_keeps_newest_and_aliased_versions(registry: Registry, root: Path) -> None:
    whole = register(registry, whole=True, tags={"mmalign.verdict": "promoted"})
    others = [register(registry) for _ in range(6)]
    for alias, number in ((PREVIOUS, 2), (CHAMPION, 3)):
        registry.set_alias("mm-policy", alias, number)

    removed = registry.retain("mm-policy", 4)

    assert [version.number for version in registry.versions("mm-policy")] == [7, 6, 3, 2]
    assert len(removed) == 3
    assert re.fullmatch(rf"removed mm-policy/1 \(digest {whole.digest[:12]}, promoted, [\d.]+ MB\): registry.keep is 4", removed[0])
    assert not stored(root, whole).exists()
    assert not stored(root, others[2]).exists()
    assert stored(root, others[1]).exists()
    assert registry.retain("mm-policy", 4) == []
    assert register(registry).number == 8


def test_retention_frees_disk(registry: Registry, root: Path) -> None:
    for _ in range(3):
        register(registry, whole=True)
    before = size(root / "mlruns")

    registry.retain("mm-policy", 1)

    assert size(root / "mlruns") < before / 2
    assert len(list((root / "mlruns/models").iterdir())) == 1


def test_retention_keeps_aliased_versions_above_limit(registry: Registry) -> None:
    for alias, number in ((PREVIOUS, 1), (CHAMPION, 2), (CHALLENGER, 3)):
        register(registry)
        registry.set_alias("mm-policy", alias, number)

    assert registry.retain("mm-policy", 1) == []
    assert len(registry.versions("mm-policy")) == 3


def test_retention_spares_named_versions(registry: Registry) -> None:
    for _ in range(3):
        register(registry)

    registry.retain("mm-policy", 1, spare=[1])

    assert [version.number for version in registry.versions("mm-policy")] == [1]


def test_retention_ignores_other_model(registry: Registry, root: Path) -> None:
    for _ in range(2):
        register(registry)
        registry.register("mm-reward", root / MODEL, whole=False, run_id=None, tags={})

    registry.retain("mm-policy", 1)

    assert len(registry.versions("mm-reward")) == 2


def test_retention_of_zero_versions_is_refused(registry: Registry) -> None:
    with pytest.raises(UserError, match=r"registry\.keep is 0"):
        registry.retain("mm-policy", 0)


def test_killed_registration_is_removed(registry: Registry, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = register(registry)
    client, _ = store.connect(Checkout(root))
    with monkeypatch.context() as patch:
        patch.setattr(client, "create_model_version", killed)
        with pytest.raises(KeyboardInterrupt):
            register(registry, whole=True)
    assert registry.versions("mm-policy") == [earlier]
    assert len(list((root / "mlruns/models").iterdir())) == 2

    removed = registry.retain("mm-policy", 5)

    assert len(removed) == 1
    assert "killed registration" in removed[0]
    assert [path.name for path in (root / "mlruns/models").iterdir()] == [earlier.model_id]


def killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt
