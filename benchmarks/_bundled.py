"""The checkout's data, which a fresh clone does not have yet."""

from __future__ import annotations

import sys

from components.checkout import Checkout
from components.storage.data_version import sync_data
from tests.checkout import ROOT


def fetch_data() -> None:
    """Fetch data/ as data.dvc names it, where it is missing."""
    if not (ROOT / "data/base/config.json").is_file():
        sync_data(Checkout(ROOT), accept=False, log=lambda line: print(line, file=sys.stderr, flush=True))
