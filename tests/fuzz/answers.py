"""The parser of a server's answers: what the client of OpenAI-compatible servers makes of any response, and the error sheets of judges."""

from __future__ import annotations

import asyncio
import json
import tempfile
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from components.config.endpoint import EndpointSettings
from components.endpoints.request import Answer
from components.endpoints.run import Run, Server, wait_seconds
from components.evaluation.error_sheets import TASKS, Sheets, judge_key
from components.evaluation.judge_prompts import verdict_of
from tests.fuzz.words import ROOT

STATUS = (200, 400, 429, 503)
COMPLETION: dict[str, Any] = {
    "id": "a",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "A dog."}}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}
RESPONSES = (
    {"status": 200, "headers": {"content-type": "application/json"}, "body": json.dumps(COMPLETION)},
    {"status": 429, "headers": {"retry-after": "3"}, "body": '{"error": {"message": "crowded"}}'},
    {"status": 200, "headers": {"content-type": "text/event-stream"}, "body": 'data: {"choices": []}\n\ndata: [DO'},
    {"status": 200, "headers": {"content-type": "application/json"}, "body": COMPLETION},
)


def response(content: bytes) -> None:
    """A response with its status, headers and body: {"status": ..., "headers": ..., "body": a text, or the value of its JSON}."""
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        values = {"status": 200, "headers": RESPONSES[0]["headers"], "body": content.decode(errors="replace")}
    if not isinstance(values, dict):
        return
    body = values.get("body")
    text = body.encode(errors="replace") if isinstance(body, str) else json.dumps(body).encode()
    headers = {
        name: value
        for name, value in (values["headers"].items() if isinstance(values.get("headers"), dict) else ())
        if isinstance(value, str) and (name + value).isascii() and (name + value).isprintable() and name.strip()
    }
    outcome = asyncio.run(_outcome(values.get("status") if values.get("status") in STATUS else 200, headers, text))
    wait_seconds(headers.get("retry-after"))
    if isinstance(outcome, Answer):
        assert all(isinstance(value, str) for value in (outcome.text, outcome.finish))
        assert min(outcome.prompt_tokens, outcome.completion_tokens) >= 0
        json.dumps(asdict(outcome)).encode()
        outcome.text.encode()
        verdict_of(outcome.text)


@cache
def _settings() -> EndpointSettings:
    return EndpointSettings(**yaml.safe_load((ROOT / "params.yaml").read_text())["endpoint"])


async def _outcome(status: int, headers: dict[str, str], body: bytes) -> Any:
    import httpx2
    from openai import AsyncOpenAI

    from components.endpoints.bounded import BoundedClient

    transport = httpx2.MockTransport(lambda _: httpx2.Response(status, headers=headers, content=body))
    server = Server("endpoint.reward", "m", "http://localhost/v1", "none", "", 0.0, 0.0)
    run = Run(server, _settings(), _Nothing(), lambda _: None, backoff_seconds=0.0, proven=False)
    async with AsyncOpenAI(api_key="none", base_url=server.url, max_retries=0, http_client=BoundedClient(transport=transport)) as opened:
        return await run._send(opened, {"model": "m", "messages": []})


class _Nothing:
    """A store without answers."""

    def find(self, keys: Any) -> dict[str, Any]:
        del keys
        return {}

    def store(self, values: Any) -> None:
        """Nothing is stored."""


def sheet(content: bytes) -> None:
    """The error sheet of a judge, whose key is right."""
    try:
        values = json.loads(content)
        content = json.dumps(values | {"key": judge_key("rules")}).encode() if isinstance(values, dict) else content
    except (ValueError, RecursionError):
        pass
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "rules.json").write_bytes(content)
        sheets = Sheets(Path(folder))
        for task in TASKS:
            sheets.error("rules", task)
