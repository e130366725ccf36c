"""When the store of reference log-probs writes, what its keys and contexts hold, and what the stage records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from components.alignment import reference_stage, reference_store, stage
from components.alignment.policy_task import build as build_policy
from components.alignment.reference_store import Context, ReferenceStore, store_key
from components.alignment.reference_table import read_log_probs
from components.alignment.reference_task import build, reference_context
from components.checkout import Checkout
from components.closures import code_digest
from components.config.settings import Settings, load_settings
from components.engine import inference as engine
from components.engine.inference import Launch, Report
from components.families.digests import model_digest, processor_digest
from components.files import digest_bytes
from components.preferences.record import write_queries
from tests.clock import Clock
from tests.tiny import queries, remade, save_checkout, save_checkpoint

CONTEXT = Context("code", "model", "processor", "template", "float32", max_length=512, max_frames=8, row_tokens=512)
KEY, OTHER = "query:one:two", "query:two:three"
VALUES = [(-1.5, 3), (-2.5, 4)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(reference_store, "time", made)
    return made


def parts(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*.parquet"))


def test_fresh_entries_wait_two_seconds_for_company(tmp_path: Path, clock: Clock) -> None:
    store = ReferenceStore(Checkout(tmp_path), CONTEXT)
    clock.now += 1.9
    store.store({KEY: VALUES})
    assert parts(tmp_path) == []
    clock.now += 0.1
    store.store({})
    assert len(parts(tmp_path)) == 1
    clock.now += 1.9
    store.store({OTHER: [(-9.0, 9), (-3.5, 5)]})
    assert len(parts(tmp_path)) == 1, "the clock starts anew when entries are written"
    clock.now += 0.1
    store.store({})
    assert len(parts(tmp_path)) == 2
    clock.now += 9.0
    store.store({})
    assert len(parts(tmp_path)) == 2, "nothing fresh, nothing written"


def test_waiting_entries_are_found_by_the_process_that_has_them(tmp_path: Path, clock: Clock) -> None:
    store = ReferenceStore(Checkout(tmp_path), CONTEXT)
    store.store({KEY: VALUES})
    assert store.find([KEY, OTHER]) == {KEY: VALUES}
    assert ReferenceStore(Checkout(tmp_path), CONTEXT).find([KEY]) == {}
    assert clock.now == 100.0


def test_part_holds_only_what_is_new_sorted_and_typed(tmp_path: Path) -> None:
    with ReferenceStore(Checkout(tmp_path), CONTEXT) as store:
        store.store({"b:y:x": VALUES})
        store.flush()
        store.store({"a:y": [(-7.0, 7)], "b:x:z": [(-99.0, 99), (-4.0, 2)]})
    tables = sorted((pq.read_table(path) for path in tmp_path.rglob("part-*.parquet")), key=lambda table: str(table["query"].to_pylist()))
    assert [table.to_pydict() for table in tables] == [
        {"query": ["a", "b"], "response": ["y", "z"], "log_prob": [-7.0, -4.0], "tokens": [7, 2]},
        {"query": ["b", "b"], "response": ["x", "y"], "log_prob": [-2.5, -1.5], "tokens": [4, 3]},
    ]
    schema = pa.schema([("query", pa.string()), ("response", pa.string()), ("log_prob", pa.float64()), ("tokens", pa.int32())])
    assert all(table.schema.equals(schema) for table in tables)


def test_part_is_named_by_its_entries_so_that_it_is_written_once(tmp_path: Path) -> None:
    for _ in range(2):
        store = ReferenceStore(Checkout(tmp_path), CONTEXT)
        store.store({KEY: VALUES})
        store.flush()
    (name,) = parts(tmp_path)
    assert name == f"part-{digest_bytes('query', 'one', 'query', 'two')[:24]}.parquet"


def test_joining_keeps_all_entries_in_one_file(tmp_path: Path) -> None:
    store = ReferenceStore(Checkout(tmp_path), CONTEXT)
    store.compact()
    assert parts(tmp_path) == [], "nothing to join"
    store.store({KEY: VALUES})
    store.compact()
    assert parts(tmp_path) == ["entries.parquet"]
    later = ReferenceStore(Checkout(tmp_path), CONTEXT)
    later.store({"another:one": [(-3.0, 1)]})
    later.compact()
    assert parts(tmp_path) == ["entries.parquet"]
    assert ReferenceStore(Checkout(tmp_path), CONTEXT).find([KEY, "another:one"]) == {KEY: VALUES, "another:one": [(-3.0, 1)]}


def test_store_uses_its_entries_after_another_process_joined(tmp_path: Path) -> None:
    store = ReferenceStore(Checkout(tmp_path), CONTEXT)
    store.store({KEY: VALUES})
    store.flush()
    ReferenceStore(Checkout(tmp_path), CONTEXT).compact()
    assert store.find([KEY]) == {KEY: VALUES}


def test_context_has_a_folder_named_by_all_its_fields(tmp_path: Path) -> None:
    fields = (
        "background=#ffffff",
        "code=code",
        "dtype=float32",
        "max_frames=8",
        "max_length=512",
        "model=model",
        "processor=processor",
        "row_tokens=512",
        "template=template",
    )
    assert CONTEXT.digest == digest_bytes(*fields)[:24]
    assert ReferenceStore(Checkout(tmp_path), CONTEXT).folder == tmp_path / ".mmalign/cache/reference" / CONTEXT.digest


def test_key_names_prompt_media_and_each_response() -> None:
    row = queries()[0]
    assert store_key(row) == ":".join(
        [digest_bytes("Is it 0?", "image", "square.png"), *(digest_bytes(response.text) for response in row.responses)]
    )
    text = queries()[2]
    assert store_key(text).split(":")[0] == digest_bytes("Is it 2?", "", "")
    assert store_key(remade(row, kind="video")) != store_key(row)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_media: Path) -> Path:
    root = tmp_path_factory.mktemp("checkout")
    save_checkout(root, tiny_base, tiny_media)
    write_queries(root / "artifacts/validate/train/queries.parquet", queries()[1:3])
    write_queries(root / "artifacts/validate/heldout/queries.parquet", [])
    return root


def test_stages_run_their_tasks_under_their_own_names(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def run_tasks(tasks: Any, *arguments: Any) -> Report:
        calls.append(arguments)
        for task in tasks:
            task.store.store({key: [(-1.0, 2)] * (len(key.split(":")) - 1) for key in task.keys})
        return Report(times={"compute_seconds": 3.5}, items=[2, 0], units=[2, 0])

    monkeypatch.setattr(reference_stage, "run_tasks", run_tasks)
    monkeypatch.setattr(engine, "run_tasks", run_tasks)
    save_checkpoint(checkout / "artifacts/align/model", seed=6)
    settings = settings_of(checkout, reference={"threads": 1}, model={"max_length": 446})
    result = reference_stage.run(settings, Checkout(checkout))
    assert result.times == {"compute_seconds": 3.5, "queries_computed": 2, "queries_cached": 0}
    ids = [row.id for row in queries()[1:3]]
    log_probs = stage.final_log_probs(settings, Checkout(checkout), ids[::-1])
    assert log_probs == {(row.id, number): -1.0 for row in queries()[1:3] for number in range(len(row.responses))}
    reference, policy = calls
    assert reference == (Launch("components.alignment.reference_task:build", "reference"), settings, Checkout(checkout))
    assert policy == (
        Launch("components.alignment.policy_task:build", "reference", sorted(ids), name="policy"),
        settings,
        Checkout(checkout),
    )


def settings_of(root: Path, **sections: dict[str, Any]) -> Settings:
    settings = load_settings(root / "params.yaml")
    return settings.model_copy(update={name: getattr(settings, name).model_copy(update=keys) for name, keys in sections.items()})


def test_stage_records_responses_tokens_and_mean_log_prob(checkout: Path) -> None:
    settings = settings_of(checkout, reference={"threads": 2})
    torch.set_num_threads(1)
    try:
        result = reference_stage.run(settings, Checkout(checkout))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    values = read_log_probs(checkout / "artifacts/reference/train.parquet")
    assert list(values) == [(row.id, number) for row in queries()[1:3] for number in range(len(row.responses))]
    total = sum(tokens for _, tokens in values.values())
    assert result.metrics == {
        "train.responses": 5,
        "train.tokens": total,
        "train.log_prob_a_token": pytest.approx(sum(value for value, _ in values.values()) / total),
        "heldout.responses": 0,
        "heldout.tokens": 0,
        "heldout.log_prob_a_token": 0.0,
    }
    assert result.digests == {"reference.model_digest": model_digest(checkout / "data/base")}
    assert (result.times["queries_computed"], result.times["queries_cached"]) == (2, 0)
    assert parts(build(settings, Checkout(checkout))[0].store.folder) == ["entries.parquet"]
    repeated = reference_stage.run(settings_of(checkout, reference={"threads": 1}), Checkout(checkout))
    assert repeated.times == {"queries_computed": 0, "queries_cached": 2}
    assert repeated.metrics == result.metrics


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", "float32"), ("bf16", "bfloat16")])
def test_context_of_the_reference_is_that_of_base_and_settings(checkout: Path, precision: str, dtype: str) -> None:
    settings = settings_of(
        checkout, training={"precision": precision, "row_tokens": 333}, model={"max_length": 444, "max_frames": 5, "background": "#101010"}
    )
    train, heldout = build(settings, Checkout(checkout))
    base = checkout / "data/base"
    context = reference_context(settings, base, train.preprocessor)
    assert context == Context(
        code=code_digest("reference"),
        model=model_digest(base),
        processor=processor_digest(base),
        template=digest_bytes(train.preprocessor.processor.chat_template),
        dtype=dtype,
        max_length=444,
        max_frames=5,
        row_tokens=333,
        background="#101010",
    )
    assert train.store is heldout.store
    assert train.models is heldout.models
    assert train.store.folder.name == context.digest
    assert train.keys == [store_key(row) for row in queries()[1:3]]
    assert (len(heldout.keys), len(heldout.queries)) == (0, 0)
    assert train.folder == base
    assert train.preprocessor.features is not None


def test_tasks_end_by_writing_what_waits(checkout: Path) -> None:
    train, _ = build(settings_of(checkout, model={"max_length": 445}), Checkout(checkout))
    train.store.store(dict.fromkeys(train.keys[:1], VALUES))
    assert parts(train.store.folder) == []
    train.finish()
    assert len(parts(train.store.folder)) == 1


def test_policys_log_probs_are_stored_under_the_policys_digest(checkout: Path) -> None:
    policy = save_checkpoint(checkout / "artifacts/align/model", seed=5)
    settings = settings_of(checkout)
    (task,) = build_policy(settings, Checkout(checkout), ["q1", "q2"])
    base = reference_context(settings, checkout / "data/base", task.preprocessor)
    assert task.store.folder.name == replace(base, model=model_digest(policy)).digest != base.digest
    assert task.folder == policy
    assert task.keys == [store_key(row) for row in queries()[1:3]]
    assert [row.id for row in task.queries] == ["q1", "q2"]
    assert task.preprocessor.features is not None, "the base's tower is the policy's"
