"""What MLflow's server answers to requests that hypothesis thinks of: rows, parameters and bodies.

The server describes its requests in no schema (its OpenAPI page knows the route and no body), so the requests are made from good ones. Our part is
what happens behind MLflow's parser: no answer has a trace of the model's code, and no request writes more tokens than the cap.
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
from tests.fuzz.inputs import PIECES, changed_values, json_files

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
        serving = serving_settings(name, load_settings(SOURCE / "params.yaml")) | {"max_new_tokens": TOKENS, "max_length": 64}  # type: ignore[arg-type]
        build(name, checkpoint, folder / name, serving, cached={}, model_id="m-1", run_id=None)  # type: ignore[arg-type]
        model = mlflow.pyfunc.load_model(str(folder / name))
        made[name] = TestClient(scoring_server.init(model), raise_server_exceptions=False)
    return made


def bodies(image: str) -> st.SearchStrategy[bytes]:
    """Bodies in the forms that MLflow's server takes, with good rows and rows of any values, and other bytes."""
    shown = {**ROW, "image": image}
    records = [
        {"prompt": "What?"},
        {"prompt": "What?", "image": image, "response": "A."},
        {"messages": ROW["messages"], "image": [image]},
        shown,
    ]
    requests: list[Any] = [{"dataframe_records": [row], "params": {"max_new_tokens": 1}} for row in records]
    requests += [
        {"dataframe_split": {"columns": list(shown), "data": [list(shown.values())]}},
        {"instances": records[:1]},
        {"inputs": records[1]},
    ]
    return st.one_of(json_files(*requests), changed_values(requests).map(lambda value: json.dumps(value).encode()), st.sampled_from(PIECES))


def ask(client: Any, body: bytes, kind: str) -> tuple[int, str]:
    answer = client.post("/invocations", content=body, headers={"Content-Type": kind})
    return answer.status_code, answer.text


@pytest.mark.parametrize("name", ["mm-policy", "mm-reward"])
def test_no_request_shows_a_trace_of_ours(clients: dict[str, Any], tiny_media: Path, name: str) -> None:
    image = base64.b64encode((tiny_media / "square.png").read_bytes()).decode()
    kinds = st.sampled_from(["application/json"] * 8 + ["text/csv", "application/octet-stream", "text/plain"])

    statuses: set[int] = set()

    @seed(7)
    @settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(bodies(image), kinds)
    def check(body: bytes, kind: str) -> None:
        status, text = ask(clients[name], body, kind)
        statuses.add(status)
        if status not in {200, 400, 415}:
            print("STATUS", status, kind, body[:300], text[:300])
        if "Traceback" in text:
            print("TRACE", status, kind, body[:300], text[-1500:])

    check()
    assert {200, 400} <= statuses
