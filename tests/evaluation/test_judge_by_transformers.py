"""The model judge's requests to a real `transformers serve`: it answers them, pictures too, and what it can't word as a verdict is silence.

Slow: a request a text, one by one. The bundled base has learned no verdicts; what a verdict says is tested against a scripted server.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.endpoints.request import Answer
from components.evaluation.chain import load_chain
from components.evaluation.model_judge import ModelJudge
from components.evaluation.verdict import JudgedAnswer
from tests.tiny import save_checkout
from tests.transformers_serve import Serve, heldout

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_transformers_serve_takes_every_request_of_the_judge(tmp_path: Path, data: Path) -> None:
    save_checkout(tmp_path, data / "base", data / "preferences", evaluate={"judges": ["model"]})
    checkout, folder = Checkout(tmp_path), tmp_path / "data/base"
    server = Serve(folder, tmp_path / "serve.log")
    try:
        settings = checkout.settings()
        judge = settings.endpoint.judge.model_copy(update={"url": server.url, "model": str(folder), "key": ""})
        endpoint = settings.endpoint.model_copy(update={"judge": judge, "timeout_seconds": 600.0})
        model = load_chain(settings.model_copy(update={"endpoint": endpoint}), checkout).judges["model"]
        assert isinstance(model, ModelJudge)
        query = next(one for one in heldout(data, 8) if one.category == "long")
        harmful = replace(query, id="harmful", safety="harmful")
        answers = [JudgedAnswer(one, "I see a red circle.") for one in (query, harmful)]
        model.prepare(answers)
        assert model.client.usage.answers == 3, "right, description with its picture, conduct"
        preferences = model.prefer([(query, "I see a red circle.", "I see a dog.")])
        requests = [request for one in answers for request in model._requests(one.query, one.answer, ended=True).values()]
        assert all(isinstance(answer, Answer) and answer.prompt_tokens > 0 for answer in model.client.cached(requests))
    finally:
        server.kill()
    assert preferences[0] in (None, 0.0, 0.5, 1.0)
    verdicts = [model.judge(one.query, one.answer) for one in answers]
    assert [verdict.degenerate for verdict in verdicts] == [False, False], "read from the cache, with the server gone"
