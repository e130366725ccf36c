"""Answers of a policy by a real `transformers serve` are those of the local decoder. Slow: a request a text, one by one."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.checkout import Checkout
from components.engine.inference import Launch, run_tasks
from components.evaluation.tasks import AnswerTask, policy_tasks
from components.preferences.record import write_queries
from components.stages import INFERENCE_TASKS
from tests.tiny import save_checkout
from tests.transformers_serve import Serve, heldout

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]
QUERIES = 40


def test_server_gives_the_answers_of_the_local_decoder(tmp_path: Path, data: Path) -> None:
    save_checkout(tmp_path, data / "base", data / "preferences", evaluate={"engine": "endpoint", "max_new_tokens": 48})
    checkout = Checkout(tmp_path)
    write_queries(checkout.queries("heldout"), heldout(data, QUERIES))
    folder = tmp_path / "data/base"
    server = Serve(folder, tmp_path / "serve.log")
    try:
        settings = checkout.settings()
        base = settings.endpoint.base.model_copy(update={"url": server.url, "model": str(folder)})
        endpoint = settings.endpoint.model_copy(update={"base": base, "timeout_seconds": 600.0})
        arguments = {"base": "data/base"}
        (served,) = policy_tasks(settings.model_copy(update={"endpoint": endpoint}), checkout, arguments)
        run_tasks([served], Launch(INFERENCE_TASKS["policy_answers"], "evaluate", arguments), settings, checkout)
    finally:
        server.kill()
    (local,) = policy_tasks(
        settings.model_copy(update={"evaluate": settings.evaluate.model_copy(update={"engine": "local"})}), checkout, arguments
    )
    run_tasks([local], Launch(INFERENCE_TASKS["policy_answers"], "evaluate", arguments), settings, checkout)
    assert isinstance(served, AnswerTask)
    assert served.served is not None
    assert served.served.counts["served"] == QUERIES
    assert not set(served.keys) & set(local.keys)
    assert len({text for text, _ in served.results()}) > QUERIES // 4, "the answers differ among themselves"
    assert served.results() == local.results()
