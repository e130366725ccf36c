import pytest

from components.preferences.faults import RowError
from components.preferences.pairs import pairs_from_query, queries_from_pairs
from components.preferences.record import Medium, Query, Response


def query(*ranks: int) -> Query:
    responses = tuple(
        Response(f"answer {index}", rank, critique=f"reason {index}", critique_source="human") for index, rank in enumerate(ranks)
    )
    return Query.single("q", "mcq", "Which?", responses, Medium("mcq/x.png", "image"))


def test_pair_row_has_release_fields() -> None:
    assert pairs_from_query(query(2, 1)) == [
        {
            "id": "q",
            "image": "mcq/x.png",
            "prompt": "Which?",
            "chosen": "answer 1",
            "rejected": "answer 0",
            "chosen_reason": "reason 1",
            "rejected_reason": "reason 0",
            "category": "mcq",
        }
    ]


@pytest.mark.parametrize("ranks", [(1, 2), (1, 2, 3, 4), (2, 1, 2, 3), (1, 1, 2), (3, 1, 1, 4), (1, 2, 2, 2, 3)])
def test_pairs_round_trip_to_query(ranks: tuple[int, ...]) -> None:
    original = query(*ranks)
    (back,) = queries_from_pairs(pairs_from_query(original))

    def order(of: Query) -> set[tuple[str, str]]:
        return {(of.responses[winner].text, of.responses[loser].text) for winner, loser in of.pairs()}

    assert order(back) == order(original)
    assert len(back.ties()) == len(original.ties())
    assert {response.text: response.critique for response in back.responses} == {
        response.text: response.critique for response in original.responses
    }
    assert (back.media, back.category, back.prompt) == ((Medium("mcq/x.png", "image"),), "mcq", "Which?")


def test_pairs_of_several_queries_may_be_mixed() -> None:
    one, two = query(1, 2, 3), Query.single("other", "mcq", "Which?", query(2, 1).responses)
    rows = [*pairs_from_query(one)[:2], *pairs_from_query(two), *pairs_from_query(one)[2:]]
    assert [(back.id, len(back.responses)) for back in queries_from_pairs(rows)] == [("q", 3), ("other", 2)]


def test_circular_pairs_are_refused() -> None:
    rows = [{"id": "q", "prompt": "?", "chosen": chosen, "rejected": rejected} for chosen, rejected in ("ab", "bc", "ca")]
    with pytest.raises(RowError, match="no weak order"):
        queries_from_pairs(rows)


def test_missing_pair_is_refused() -> None:
    rows = pairs_from_query(query(1, 2, 3))
    with pytest.raises(RowError, match="not those of one ranking"):
        queries_from_pairs([rows[0], rows[2]])


def test_non_pair_row_names_its_field() -> None:
    with pytest.raises(RowError, match="rejected: is NoneType"):
        queries_from_pairs([{"id": "q", "prompt": "?", "chosen": "a"}])
