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
