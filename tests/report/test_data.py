from components.report.data import _remarks


def test_page_tells_what_held_out_rows_share_with_training() -> None:
    metrics = {"heldout_queries": 50, "leaked_queries": 1, "near_duplicates": 2, "shared_wordings": 40}
    metrics |= {"contradictions": 3, "contradicting_share": 0.015, "rows_without_scores": 0, "equal_texts": 4}
    assert _remarks(metrics) == [
        ("held-out rows that share a picture or a group with training", "1 of 50"),
        ("held-out rows that ask the same about a picture that looks like one in training", "2 of 50"),
        ("held-out rows whose question training asks too", "40 of 50"),
        ("pairs whose ranks contradict their scores", "3 (1.5 %)"),
        ("pairs left out: equal answers at different ranks", "4"),
    ]


def test_validation_of_an_earlier_version_has_no_remarks() -> None:
    assert _remarks({"heldout_queries": 50, "queries": 200}) == []
