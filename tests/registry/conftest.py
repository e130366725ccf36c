from __future__ import annotations

from tests.registry.registered import registry, root
from tests.tracking.conftest import checkout, empty_database, no_memory_of_failures

__all__ = ["checkout", "empty_database", "no_memory_of_failures", "registry", "root"]
