import pytest

from components.errors import UserError
from components.validation.leakage import check_leakage, find_leakage
from tests.validation.summaries import summary

FINGERPRINT, OTHER = bytes(160), bytes([0b10101010] * 160)
NEAR = bytes([0b11111111] * 8) + bytes(24) + bytes(128)


def test_shared_pictures_and_groups_leak_and_wordings_do_not() -> None:
    train = [summary(0, pictures=["a"]), summary(1, group="g"), summary(2, wording="what is it?")]
    heldout = [
        summary(10, pictures=["a"]),
        summary(11, group="g"),
        summary(12, wording="what is it?"),
        summary(13, pictures=["a"], group="g"),
    ]
    leakage = find_leakage(train, heldout)
    assert [row.id for row in leakage.leaking] == ["row-10", "row-11", "row-13"]
    metrics = leakage.metrics()
    assert metrics["leaked_queries"] == 3
    assert metrics["leaked_share"] == 0.75
    assert (metrics["leaked_pictures"], metrics["leaked_groups"], metrics["shared_wordings"]) == (2, 2, 1)


def test_leakage_past_its_limit_is_refused_with_lines() -> None:
    leakage = find_leakage([summary(0, pictures=["a"])], [summary(n, pictures=["a"] if n < 2 else ["b"]) for n in range(10)])
    check_leakage("heldout.jsonl", leakage, 0.2)
    with pytest.raises(
        UserError, match=r"heldout\.jsonl: 2 of 10 rows share media \(2\) or a group \(0\) .* first line 1 \('row-0'\), line 2"
    ):
        check_leakage("heldout.jsonl", leakage, 0.19)


@pytest.mark.parametrize(("fingerprint", "wording", "counts"), [(NEAR, "a", (1, 1)), (NEAR, "b", (1, 0)), (OTHER, "a", (0, 0))])
def test_near_duplicate_needs_near_picture_and_wording(fingerprint: bytes, wording: str, counts: tuple[int, int]) -> None:
    metrics = find_leakage(
        [summary(0, fingerprints=[FINGERPRINT], wording="a")], [summary(1, fingerprints=[fingerprint], wording=wording)]
    ).metrics()
    assert (metrics["near_pictures"], metrics["near_duplicates"]) == counts


def test_same_file_is_no_near_duplicate() -> None:
    metrics = find_leakage([summary(0, pictures=["a"])], [summary(1, pictures=["a"])]).metrics()
    assert (metrics["leaked_queries"], metrics["near_pictures"]) == (1, 0)
