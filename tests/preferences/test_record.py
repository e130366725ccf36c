from pathlib import Path

from components.preferences.record import Query, Response, read_queries, write_queries

RESPONSES = (Response("a", 1), Response("b", 2))


def test_group_and_clusters_survive_the_table(tmp_path: Path) -> None:
    queries = [
        Query.single("1", "short", "q", RESPONSES, group="conversation 7", clusters={"picture": "p", "wording": "w"}),
        Query.single("2", "short", "q", RESPONSES),
    ]
    write_queries(tmp_path / "queries.parquet", queries)
    assert read_queries(tmp_path / "queries.parquet") == queries


def test_responses_that_read_the_same_make_no_pair() -> None:
    query = Query.single("1", "short", "q", (Response("A dog.", 1), Response("A dog. \u200b", 2), Response("A cat.", 3)))
    assert query.pairs() == [(0, 2), (1, 2)]
    assert query.ties() == []
