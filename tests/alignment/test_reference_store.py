from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from components.alignment.reference_store import CONTEXT, Context, ReferenceStore, store_key
from components.checkout import Checkout
from components.errors import StageFault
from components.preferences.record import Query, Response
from tests.tiny import queries, remade, rephrased

CONTEXT_HERE = Context("code", "model", "processor", "template", "float32", max_length=512, max_frames=8, row_tokens=512)
QUERY = queries()[0]
VALUES = [(-1.5 * number - 0.1, number + 2) for number in range(len(QUERY.responses))]


def parts(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*.parquet"))


def stored_values(root: Path, query: Query, context: Context = CONTEXT_HERE) -> object:
    return ReferenceStore(Checkout(root), context).find([store_key(query)]).get(store_key(query))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with ReferenceStore(Checkout(tmp_path), CONTEXT_HERE) as store:
        store.store({store_key(QUERY): VALUES})
    return tmp_path


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"processor": "other"},
        {"template": "other"},
        {"dtype": "bfloat16"},
        {"max_length": 256},
        {"max_frames": 4},
        {"background": "#000000"},
        {"row_tokens": 256},
    ],
    ids=lambda change: next(iter(change)),
)
def test_nothing_of_another_context_is_returned(root: Path, change: dict[str, object]) -> None:
    assert stored_values(root, QUERY) == VALUES
    assert stored_values(root, QUERY, replace(CONTEXT_HERE, **change)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "other",
    [
        rephrased(QUERY, "Is it not?"),
        remade(QUERY, digest="other bytes"),
        replace(QUERY, responses=(*QUERY.responses, Response("One more.", 1))),
        replace(QUERY, responses=(replace(QUERY.responses[0], text="Yes!"), *QUERY.responses[1:])),
    ],
    ids=["prompt", "media", "a new response", "a changed response"],
)
def test_another_query_or_response_is_not_there(root: Path, other: Query) -> None:
    assert stored_values(root, other) is None


def test_entries_belong_to_responses_in_any_order_rank_or_row(root: Path) -> None:
    turned = replace(QUERY, id="elsewhere", responses=tuple(replace(r, rank=1, critique=None) for r in reversed(QUERY.responses)))
    assert stored_values(root, turned) == VALUES[::-1]
    assert stored_values(root, replace(QUERY, responses=QUERY.responses[1:2])) == VALUES[1:2]


def test_stored_entries_keep_their_values_when_recomputed(root: Path) -> None:
    more = replace(QUERY, responses=(*QUERY.responses, Response("One more.", 1)))
    with ReferenceStore(Checkout(root), CONTEXT_HERE) as store:
        store.store({store_key(more): [*((value + 1e-6, tokens) for value, tokens in VALUES), (-9.0, 4)]})
    assert stored_values(root, more) == [*VALUES, (-9.0, 4)]


def test_parts_are_joined_and_read_while_others_write(root: Path) -> None:
    store = ReferenceStore(Checkout(root), CONTEXT_HERE)
    other = rephrased(QUERY, "Another?")
    with ReferenceStore(Checkout(root), CONTEXT_HERE, flush_seconds=0) as writer:
        writer.store({store_key(other): VALUES})
        assert store.find([store_key(QUERY), store_key(other)]) == {store_key(QUERY): VALUES, store_key(other): VALUES}
    assert len(parts(root)) == 2
    store.compact()
    assert parts(root) == ["entries.parquet"]
    assert stored_values(root, other) == stored_values(root, QUERY) == VALUES


def test_kill_between_joining_and_removing_parts_loses_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            ReferenceStore(Checkout(root), CONTEXT_HERE).compact()
    assert len(parts(root)) == 2
    (root / ".mmalign/cache/reference" / CONTEXT_HERE.digest / ".part-torn.parquet.1.tmp").write_bytes(b"half")
    assert stored_values(root, QUERY) == VALUES
    ReferenceStore(Checkout(root), CONTEXT_HERE).compact()
    assert parts(root) == ["entries.parquet"]


def test_a_folder_that_tells_of_another_context_is_refused(root: Path) -> None:
    described = root / ".mmalign/cache/reference" / CONTEXT_HERE.digest / CONTEXT
    described.write_text(described.read_text().replace('"model": "model"', '"model": "moved"'))
    with pytest.raises(StageFault, match="remove"):
        ReferenceStore(Checkout(root), CONTEXT_HERE)
