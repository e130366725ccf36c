"""Critiques by a real `transformers serve`: the texts and scores of the local decoder, through faults and the server's death too.

Slow: each text is one request to a server that takes them one by one.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import requests

from components.checkout import Checkout
from components.config.settings import Settings
from components.critique import stage
from components.critique.task import CritiqueTask, build, judge_together
from components.families.chat_template import judge_turns
from components.families.loading import load_model
from components.families.processing import Preprocessor
from components.preferences.record import Query, write_queries
from components.reward.model import load_reward_model, new_reward_model
from components.reward.scoring import Judged, score
from tests.faulty_endpoint import Endpoint, serving
from tests.tiny import save_checkout
from tests.transformers_serve import Serve, heldout

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]
QUERIES, DISTURBED = 100, 12


@pytest.fixture(scope="module")
def reward_folder(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled base as a reward model with a fresh score head."""
    folder = tmp_path_factory.mktemp("reward")
    new_reward_model(load_model(base), seed=0).save(folder, base)
    return folder


@pytest.fixture(scope="module")
def server(reward_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    serve = Serve(reward_folder, tmp_path_factory.mktemp("serve") / "log")
    yield serve
    serve.kill()


@pytest.fixture
def make_checkout(tmp_path: Path, data: Path, reward_folder: Path) -> Callable[[str, int], Checkout]:
    def make(name: str, count: int) -> Checkout:
        root = tmp_path / name
        root.mkdir()
        save_checkout(root, data / "base", data / "preferences", critique={"engine": "endpoint", "max_new_tokens": 48})
        queries = heldout(data, count)
        write_queries(root / "artifacts/validate/heldout/queries.parquet", queries)
        write_queries(root / "artifacts/validate/train/queries.parquet", queries[:1])
        shutil.copytree(reward_folder, root / "artifacts/reward/model")
        return Checkout(root)

    return make


def with_server(checkout: Checkout, url: str, folder: Path, **changes: object) -> Settings:
    settings = checkout.settings()
    reward = settings.endpoint.reward.model_copy(update={"url": url, "model": str(folder)})
    return settings.model_copy(update={"endpoint": settings.endpoint.model_copy(update={"reward": reward, **changes})})


def texts_served(times: dict[str, float]) -> float:
    """Texts of both splits: the training query stands in the held-out ones too, and is asked for once."""
    return times["train.served"] + times["heldout.served"]


def spans_the_border(preprocessor: Preprocessor, instruction: str, query: Query, response: str) -> bool:
    """Whether a token of the whole prompt spans the border between the local root and the response."""

    def tokens(text: str) -> list[int]:
        return list(preprocessor.tokenizer(text, add_special_tokens=False)["input_ids"])

    root = judge_turns(query, instruction)[-1].text
    return tokens(root + response) != [*tokens(root), *tokens(response)]


def test_server_writes_the_texts_of_the_local_decoder(
    make_checkout: Callable[[str, int], Checkout], server: Serve, reward_folder: Path
) -> None:
    checkout = make_checkout("equal", QUERIES)
    settings = with_server(checkout, server.url, reward_folder, timeout_seconds=600.0)
    result = stage.run(settings, checkout)
    task: CritiqueTask = build(settings, checkout)[1]
    served = task.judgements()
    reward = load_reward_model(checkout.reward_model)
    assert texts_served(result.times) == sum(len(query.responses) for query in task.queries), "the server wrote all of them"
    different: list[tuple[Query, str]] = []
    equal, largest = 0, 0.0
    for start in range(0, QUERIES, 20):
        queries: Sequence[Query] = task.queries[start : start + 20]
        local = judge_together(reward, task.preprocessor, queries, settings)
        for query, row, local_row in zip(queries, served[start : start + 20], local, strict=True):
            equal += [text for text, _ in row] == [text for text, _ in local_row]
            pairs = zip(query.responses, row, local_row, strict=True)
            different += [(query, response.text) for response, ours, theirs in pairs if ours[0] != theirs[0]]
            judged = [Judged(query, response.text, text) for response, (text, _) in zip(query.responses, row, strict=True)]
            by_text = score(reward, task.preprocessor, judged, instruction=settings.reward.instruction)
            largest = max(largest, *(abs(ours - theirs) for (_, ours), theirs in zip(row, by_text, strict=True)))
            same = [abs(ours[1] - theirs[1]) for ours, theirs in zip(row, local_row, strict=True) if ours[0] == theirs[0]]
            largest = max([largest, *same])
    words = sum(len(text.split()) for row in served for text, _ in row) / sum(map(len, served))
    print(f"equal in {equal} of {QUERIES} queries; scores differ by {largest:.2e} at most; {words:.1f} words a critique")
    assert words > 3
    assert equal >= 98
    assert largest < 1e-4
    assert all(spans_the_border(task.preprocessor, settings.reward.instruction, query, response) for query, response in different)


def forward(url: str) -> Callable[[dict[str, object]], tuple[int, str]]:
    """Hand a request on to the server at `url`; a dead one is an answer of 503, as a gateway gives it."""

    def send(body: dict[str, object]) -> tuple[int, str]:
        try:
            response = requests.post(f"{url}/chat/completions", json=body, timeout=600)
        except requests.ConnectionError:
            return 503, json.dumps({"error": {"message": "no server"}})
        return response.status_code, response.text

    return send


def test_disturbed_run_ends_with_the_same_table(make_checkout: Callable[[str, int], Checkout], server: Serve, reward_folder: Path) -> None:
    calm = make_checkout("calm", DISTURBED)
    stage.run(with_server(calm, server.url, reward_folder, timeout_seconds=600.0), calm)
    expected = calm.critiques("heldout").read_bytes()

    checkout = make_checkout("disturbed", DISTURBED)
    endpoint = Endpoint(["none", "crowded", "none", "silent", "cut", "none", "none", "failed"])
    endpoint.forward, endpoint.silent_seconds = forward(server.url), 62.0

    def kill_half_way() -> None:
        while len(endpoint.answered) < DISTURBED * 2 and not ended.is_set():
            time.sleep(0.05)
        server.kill()
        server.start()

    ended = threading.Event()
    killer = threading.Thread(target=kill_half_way)
    with serving(endpoint):
        settings = with_server(checkout, endpoint.url, reward_folder, timeout_seconds=60.0, retries=60, concurrency=4)
        killer.start()
        try:
            result = stage.run(settings, checkout)
        finally:
            ended.set()
            killer.join()
    assert checkout.critiques("heldout").read_bytes() == expected
    assert texts_served(result.times) == sum(len(query.responses) for query in build(settings, checkout)[1].queries)
    print(f"{endpoint.requests} requests for {len(set(endpoint.answered))} texts")
    assert len(endpoint.answered) == len(set(endpoint.answered)), "no answer that came was asked for a second time"
    assert len(set(endpoint.answered)) + 4 <= endpoint.requests <= len(set(endpoint.answered)) + 60
