"""What MLflow's server answers to requests that hypothesis thinks of: rows, parameters and bodies.

The server describes its requests in no schema (its OpenAPI page knows the route and no body), so the requests are made from good ones. Our part is
what happens behind MLflow's parser: every answer is 200 or 400, and none has a trace of the model's code. MLflow itself answers 500 to JSON nested
without end, and shows a trace of its own parser for some bodies.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from components.config.settings import load_settings
from components.registry.packaging import SOURCE, build, serving_settings
from tests.fuzz.inputs import changed_bytes, changed_values, encoded

TOKENS = 2
OURS = ("policy_model.py", "reward_model.py", "model_input.py", "/components/")
ROW = {
    "prompt": "<image>What?",
    "image": "",
    "messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}],
    "response": "A dog.",
}


@pytest.fixture(scope="module")
def clients(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """MLflow's server before a small policy and a small reward model."""
    from mlflow.pyfunc import scoring_server
    from starlette.testclient import TestClient

    import mlflow
    from components.families.loading import load_model
    from components.reward.model import new_reward_model

    folder = tmp_path_factory.mktemp("served")
    new_reward_model(load_model(tiny_base), seed=0).save(folder / "reward", tiny_base)
    made = {}
    for name, checkpoint in (("mm-policy", tiny_base), ("mm-reward", folder / "reward")):
        serving = serving_settings(name, load_settings(SOURCE / "params.yaml")) | {"max_new_tokens": TOKENS}  # type: ignore[arg-type]
        build(name, checkpoint, folder / name, serving, cached={}, model_id="m-1", run_id=None)  # type: ignore[arg-type]
        model = mlflow.pyfunc.load_model(str(folder / name))
        made[name] = TestClient(scoring_server.init(model), raise_server_exceptions=False)
    return made


def requests(image: str) -> list[dict[str, Any]]:
    """Good requests, in the forms that MLflow's server takes."""
    shown = {**ROW, "image": image}
    records = [{"prompt": "What?", "response": "A."}, {"prompt": "What?", "image": image, "response": "A."}, shown]
    made: list[dict[str, Any]] = [{"dataframe_records": [row], "params": {"max_new_tokens": 1}} for row in records]
    return [*made, {"dataframe_split": {"columns": list(shown), "data": [list(shown.values())]}}, {"inputs": records[:1]}]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mm-policy", "mm-reward"])
def test_no_request_fails_in_code_of_ours(clients: dict[str, Any], tiny_media: Path, name: str) -> None:
    good = requests(base64.b64encode((tiny_media / "square.png").read_bytes()).decode())
    statuses: set[int] = set()

    def ask(body: bytes) -> None:
        answer = clients[name].post("/invocations", content=body, headers={"Content-Type": "application/json"})
        statuses.add(answer.status_code)
        assert answer.status_code in {200, 400}, body
        assert not any(file in answer.text for file in OURS), body  # a trace of MLflow's own parser is not ours to prevent

    for request in good:
        ask(json.dumps(request).encode())
    assert 200 in statuses

    @seed(7)
    @settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.one_of(changed_values(good).map(encoded), changed_bytes([encoded(request) for request in good])))
    def check(body: bytes) -> None:
        ask(body)

    check()
    assert 400 in statuses
