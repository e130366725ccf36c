"""Which training queries the reward model never sees, so that its margins can be calibrated on them."""

from __future__ import annotations

from components.files import digest_bytes


def is_calibration(identity: str, share: float) -> bool:
    """Whether the query with this id belongs to the calibration part: decided by a hash of the id, so that it never moves."""
    return int(digest_bytes("calibration", identity)[:8], 16) / 2**32 < share
