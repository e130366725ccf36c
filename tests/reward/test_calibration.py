from __future__ import annotations

import hashlib

import pytest

from components.reward.calibration import is_calibration

IDENTITIES = [f"q{number}" for number in range(400)]


def draw(identity: str) -> float:
    """The number in [0, 1) that an id is worth: 32 bits of the sha256 of two parts, each behind its length in 8 bytes."""
    parts = [b"calibration", identity.encode()]
    digest = hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()
    return int.from_bytes(digest[:4], "big") / 4294967296


def test_share_zero_keeps_no_query_from_the_reward_model() -> None:
    assert not any(is_calibration(identity, 0.0) for identity in IDENTITIES)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_partial_share_takes_the_ids_whose_hash_lies_below_it(share: float) -> None:
    chosen = [identity for identity in IDENTITIES if is_calibration(identity, share)]
    assert chosen == [identity for identity in IDENTITIES if draw(identity) < share]
    assert len(chosen) == pytest.approx(share * len(IDENTITIES), abs=30)


def test_larger_share_keeps_the_queries_of_a_smaller_one() -> None:
    small, large = ({identity for identity in IDENTITIES if is_calibration(identity, share)} for share in (0.2, 0.4))
    assert small < large


def test_share_equal_to_an_ids_hash_leaves_the_id_out() -> None:
    exact = draw("q7")  # a multiple of 2 ** -32, so it is exact in binary
    assert not is_calibration("q7", exact)
    assert is_calibration("q7", exact + 2**-32)
