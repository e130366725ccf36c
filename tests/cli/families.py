"""The supported model families, from the adapters."""

from __future__ import annotations


def real_families() -> set[str]:
    """The model types that have an adapter."""
    from components.families.adapters import FAMILIES

    return set(FAMILIES)
