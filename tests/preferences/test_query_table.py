from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.checkout import Checkout
from components.preferences.query_table import CHUNK, QueryTable, open_queries
from components.preferences.record import SCHEMA, Query, read_queries, write_queries
from tests.tiny import queries, remade


def many() -> list[Query]:
    """More than two chunks, every fifth about a picture of known size."""
    return [
        replace(remade(query, size=(number, 7, 1)) if query.media and number % 5 == 0 else query, id=f"{number}-{query.id}")
        for number in range(CHUNK // 2)
        for query in queries()
    ]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    root = Checkout(tmp_path)
    write_queries(root.queries("train"), many())
    return root


def test_table_holds_what_was_written(checkout: Checkout) -> None:
    table = open_queries(checkout, "train")
    assert list(table) == read_queries(checkout.queries("train")) == many()
    assert len(table) == len(many())
    assert [table[0], table[CHUNK], table[-1]] == [many()[0], many()[CHUNK], many()[-1]]
    assert list(table[3:9]) == many()[3:9]
    with pytest.raises(IndexError):
        table[len(table)]


def test_selected_queries_are_in_order(checkout: Checkout) -> None:
    table = open_queries(checkout, "train")
    odd = list(range(1, len(table), 2))
    chosen = table.select(odd)
    assert list(chosen) == [many()[index] for index in odd]
    assert chosen[4] == many()[9]
    assert list(chosen.select([0, 2])) == [many()[1], many()[5]]
    assert list(table.select([])) == []


def test_table_is_written_once_for_equal_content(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_queries(checkout, "train")
    monkeypatch.setattr("components.preferences.query_table._write", lambda *_: pytest.fail("written again"))
    assert list(open_queries(checkout, "train")) == list(first)


def test_changed_file_is_another_table(checkout: Checkout) -> None:
    before = open_queries(checkout, "train")
    write_queries(checkout.queries("train"), queries())
    after = open_queries(checkout, "train")
    assert list(after) == queries()
    assert after.digest != before.digest
    assert before[7] == many()[7], "a mapped table stays readable"


def test_table_of_an_earlier_version_lacks_fields(checkout: Checkout) -> None:
    path = checkout.queries("train")
    pq.write_table(pq.read_table(path, schema=SCHEMA).drop_columns(["group", "source"]), path)
    assert list(open_queries(checkout, "train")) == many()


def test_columns_are_mapped_not_copied(checkout: Checkout) -> None:
    before = pa.total_allocated_bytes()
    table: QueryTable = open_queries(checkout, "train")
    assert pa.total_allocated_bytes() - before < 10_000
    assert table[3].id == many()[3].id
