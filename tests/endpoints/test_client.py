"""The client against a real server with faults: what it asks, how often, and what remains."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from components.endpoints.request import Answer, Refusal, Request
from components.endpoints.run import wait_seconds
from components.errors import InfrastructureFault, ServiceAway, UserError
from tests.checkout import ROOT, wait_for
from tests.endpoints.conftest import MakeClient, prompts
from tests.faulty_endpoint import KEY, MODEL, Endpoint, prompt_of, serving, text_for


def expected(requests: list[Request]) -> list[str]:
    return [text_for(request.messages[-1].text) for request in requests]


def texts(outcomes: list[Answer | Refusal]) -> list[str]:
    assert all(isinstance(outcome, Answer) for outcome in outcomes)
    return [outcome.text for outcome in outcomes if isinstance(outcome, Answer)]


def test_answers_come_in_the_order_of_the_requests(make_client: MakeClient) -> None:
    requests = prompts(30)
    with serving(Endpoint(seconds=0.01)) as endpoint:
        client = make_client(endpoint.url, concurrency=7)
        assert texts(client.complete(requests, "texts")) == expected(requests)
        assert endpoint.requests == 30
        assert 1 < endpoint.most_at_once <= 7
    assert (client.usage.requests, client.usage.answers, client.usage.faults) == (30, 30, 0)


def test_request_is_greedy_and_names_model_and_limit(make_client: MakeClient) -> None:
    with serving(Endpoint()) as endpoint:
        make_client(endpoint.url).complete(prompts(1), "texts")
        body = endpoint.bodies[0]
    assert body == {
        "model": MODEL,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "question 0"}]}],
        "temperature": 0.0,
        "top_p": 1.0,
        "max_completion_tokens": 8,
        "stream": False,
    }


@pytest.mark.parametrize("fault", ["crowded", "failed", "cut", "page"])
def test_fault_is_retried_and_costs_one_request(make_client: MakeClient, fault: str) -> None:
    requests = prompts(12)
    with serving(Endpoint([fault, "none", fault, fault, "none", "none", fault])) as endpoint:
        client = make_client(endpoint.url, concurrency=4)
        assert texts(client.complete(requests, "texts")) == expected(requests)
        assert endpoint.requests == 12 + 4
        assert sorted(endpoint.answered) == sorted(request.messages[-1].text for request in requests)
    assert client.usage.faults == 4


def test_silent_server_times_out_and_is_tried_later(make_client: MakeClient) -> None:
    requests = prompts(3)
    with serving(Endpoint(["none", "silent"])) as endpoint:
        client = make_client(endpoint.url, timeout_seconds=0.5, concurrency=2)
        assert texts(client.complete(requests, "texts")) == expected(requests)
        assert endpoint.requests == 4


def test_retry_after_is_honored(make_client: MakeClient) -> None:
    with serving(Endpoint(["crowded"])) as endpoint:
        endpoint.headers = {"Retry-After": "0.6"}
        make_client(endpoint.url).complete(prompts(2), "texts")
        assert endpoint.times[1] - endpoint.times[0] >= 0.6
        assert endpoint.requests == 3


def test_too_long_a_wait_ends_the_run(make_client: MakeClient) -> None:
    with serving(Endpoint(["none", "crowded"])) as endpoint:
        endpoint.headers = {"Retry-After": "86400"}
        with pytest.raises(InfrastructureFault, match="asks to wait 86400 seconds"):
            make_client(endpoint.url).complete(prompts(3), "texts")


def test_pauses_between_faults_grow(make_client: MakeClient) -> None:
    with serving(Endpoint(["none", *["failed"] * 4])) as endpoint:
        client = make_client(endpoint.url, concurrency=1)
        client._backoff_seconds = 0.1
        client.complete(prompts(2), "texts")
        pauses = [later - earlier for earlier, later in zip(endpoint.times[1:], endpoint.times[2:], strict=False)]
    assert len(pauses) == 4
    for number, pause in enumerate(pauses):
        assert pause >= 0.1 * 2**number * 0.5, "half of the exponential pause is the least that jitter leaves"


def test_run_ends_after_more_faults_than_retries(make_client: MakeClient) -> None:
    requests = prompts(6)
    with serving(Endpoint(["none", "none", *["failed"] * 100])) as endpoint:
        with pytest.raises(InfrastructureFault, match=r"left 4 requests without an answer, more than endpoint\.retries"):
            make_client(endpoint.url, retries=3, concurrency=1).complete(requests, "texts")
        assert endpoint.requests == 2 + 4
        endpoint.faults.clear()
        assert texts(make_client(endpoint.url, retries=3).complete(requests, "texts")) == expected(requests)
        assert endpoint.requests == 2 + 4 + 4, "the two answers of the first run are asked for no second time"


def test_answers_of_an_earlier_run_are_not_asked_for(make_client: MakeClient) -> None:
    with serving(Endpoint()) as endpoint:
        make_client(endpoint.url).complete(prompts(4), "texts")
        client = make_client(endpoint.url)
        assert texts(client.complete([*prompts(6), *prompts(6)], "texts")) == expected(prompts(6)) * 2
        assert endpoint.requests == 6
    assert client.usage.requests == 2


def test_server_that_dies_and_returns_is_used_further(make_client: MakeClient) -> None:
    requests = prompts(40)
    first, second = Endpoint(seconds=0.02), Endpoint()
    client = None

    def replace() -> None:
        with serving(first):
            started.set()
            wait_for(lambda: len(first.answered) >= 12)
        time.sleep(0.3)
        with serving(second, port=int(first.url.split(":")[2].split("/")[0])):
            wait_for(finished.is_set, seconds=300)

    started, finished = threading.Event(), threading.Event()
    thread = threading.Thread(target=replace)
    thread.start()
    try:
        assert started.wait(10)
        client = make_client(first.url, concurrency=4, retries=60)
        assert texts(client.complete(requests, "texts")) == expected(requests)
    finally:
        finished.set()
        thread.join()
    assert len(second.answered) >= 20
    assert not set(second.answered) & set(first.answered), "answers that came are not asked for a second time"
    assert first.requests + second.requests <= client.usage.requests <= 40 + 60
    assert client.usage.faults >= 1


def test_missing_server_is_reported_with_its_cure(make_client: MakeClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(ServiceAway, match=rf"the server at http://127.0.0.1:{port}/v1 \(endpoint.reward\) answers nothing.*serve-command"):
        make_client(f"http://127.0.0.1:{port}/v1").complete(prompts(50), "texts")
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("unknown", "serves no model 'writer'"),
        ("refused", "refuses the first request: Error code: 400"),
        ("denied", "refuses a request without"),
    ],
)
def test_wrong_model_key_or_setting_ends_at_the_first_request(make_client: MakeClient, fault: str, sentence: str) -> None:
    with serving(Endpoint([fault] * 100)) as endpoint:
        with pytest.raises(UserError, match=sentence):
            make_client(endpoint.url).complete(prompts(20), "texts")
        assert endpoint.requests == 1


def test_refused_text_is_returned_and_the_others_answered(make_client: MakeClient) -> None:
    requests = prompts(9)
    with serving(Endpoint(fault_of=lambda prompt: "refused" if prompt == "question 5" else "none")) as endpoint:
        outcomes = make_client(endpoint.url).complete(requests, "texts")
        assert outcomes[5] == Refusal("Error code: 400 - refused (sk-secret-of-the-tests)")
        assert texts(outcomes[:5] + outcomes[6:]) == expected(requests[:5] + requests[6:])
        assert endpoint.requests == 9


def test_message_of_a_server_without_a_key_is_shown_whole(make_client: MakeClient) -> None:
    with serving(Endpoint(["refused"])) as endpoint:
        endpoint.message = "none of the fields fits"
        with pytest.raises(UserError, match="none of the fields fits"):
            make_client(endpoint.url).complete(prompts(1), "texts")


def test_refusal_in_a_resumed_run_does_not_end_it(make_client: MakeClient) -> None:
    requests = prompts(4)
    with serving(Endpoint(fault_of=lambda prompt: "refused" if prompt == "question 2" else "none")) as endpoint:
        first = make_client(endpoint.url).complete(requests, "texts")
        assert make_client(endpoint.url).complete(requests, "texts") == first
        assert endpoint.requests == 4 + 1


def test_text_that_breaks_the_server_is_given_up_alone(make_client: MakeClient) -> None:
    requests = prompts(40)
    with serving(Endpoint(fault_of=lambda prompt: "failed" if prompt == "question 3" else "none")) as endpoint:
        outcomes = make_client(endpoint.url, concurrency=4).complete(requests, "texts")
    assert isinstance(outcomes[3], Refusal)
    assert outcomes[3].reason.startswith("no answer to ")
    assert texts(outcomes[:3] + outcomes[4:]) == expected(requests[:3] + requests[4:])


def test_cost_above_the_cap_is_refused_before_any_request(make_client: MakeClient, capsys: pytest.CaptureFixture[str]) -> None:
    requests = [Request.asking("x" * 300, max_tokens=50, system="y" * 30) for _ in range(3)] + [Request.asking("z" * 300, max_tokens=50)]
    with serving(Endpoint()) as endpoint:
        prices = {"input_price": 1e5, "output_price": 2e5}
        client = make_client(endpoint.url, **prices, max_cost=40.9)
        estimate = client.estimate(requests)
        assert (estimate.texts, estimate.prompt_tokens, estimate.completion_tokens) == (2, 110 + 100, 100)
        assert estimate.cost == pytest.approx(21 + 20)
        with pytest.raises(UserError, match=r"texts may cost 41.00, more than endpoint.max_cost 40.90: nothing was sent"):
            client.complete(requests, "texts")
        assert endpoint.requests == 0
        client = make_client(endpoint.url, **prices, max_cost=41)
        client.complete(requests, "texts")
        assert client.usage.cost == pytest.approx((20 * 1e5 + 8 * 2e5) / 1e6)
        assert client.estimate(requests).cost == 0, "answers in the cache cost nothing"
    assert "about 210 tokens in, at most 100 out, at most 41.00 in cost" in capsys.readouterr().out.replace(":", ",")


def test_answers_dearer_than_estimated_stop_at_the_cap(make_client: MakeClient) -> None:
    requests = [Request.asking(f"{number}", max_tokens=1) for number in range(5)]  # 1 + 1 tokens each, and the server counts 10 + 4
    with serving(Endpoint()) as endpoint:
        client = make_client(endpoint.url, input_price=1e6, output_price=1e6, max_cost=20, concurrency=1)
        with pytest.raises(UserError, match=r"cost 28\.00 so far, more than endpoint\.max_cost 20\.00"):
            client.complete(requests, "texts")
        assert endpoint.requests == 2


def test_key_comes_from_the_environment_and_is_shown_nowhere(
    make_client: MakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(Endpoint(["none", "failed", "none", "refused"])) as endpoint:
        client = make_client(endpoint.url, key="MY_ENDPOINT_KEY", concurrency=1)
        monkeypatch.delenv("MY_ENDPOINT_KEY", raising=False)
        with pytest.raises(UserError, match="takes its key from MY_ENDPOINT_KEY, which is not set"):
            client.complete(prompts(1), "texts")
        assert endpoint.requests == 0
        monkeypatch.setenv("MY_ENDPOINT_KEY", KEY)
        outcomes = client.complete(prompts(4), "texts")
        assert set(endpoint.authorizations) == {f"Bearer {KEY}"}
    assert Refusal("Error code: 400 - refused (***)") in outcomes
    output = capfd.readouterr()
    assert KEY not in output.out + output.err
    for path in (tmp_path / ".mmalign").rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes()


def test_requests_keep_to_the_rate_a_minute(make_client: MakeClient) -> None:
    with serving(Endpoint()) as endpoint:
        make_client(endpoint.url, requests_per_minute=600).complete(prompts(6), "texts")
        steps = [later - earlier for earlier, later in zip(endpoint.times, endpoint.times[1:], strict=False)]
    assert sum(steps) >= 5 * 0.1 - 0.02


def test_tokens_keep_to_the_rate_a_minute(make_client: MakeClient) -> None:
    requests = [Request.asking("x" * 27 + str(number).zfill(3), max_tokens=10) for number in range(5)]  # 10 + 10 tokens each
    with serving(Endpoint()) as endpoint:
        make_client(endpoint.url, tokens_per_minute=12_000).complete(requests, "texts")
    assert endpoint.times[-1] - endpoint.times[0] >= 4 * 0.1 - 0.02


SCRIPT = """
import sys
from pathlib import Path
from tests.endpoints.conftest import prompts, settings_for
from components.checkout import Checkout
from components.endpoints.client import Client
from components.storage.content_cache import ContentCache
url, folder = sys.argv[1], Path(sys.argv[2])
client = Client("reward", "writer", settings_for(url, concurrency=3), ContentCache(Checkout(folder), "endpoints"), backoff_seconds=0.02)
client.complete(prompts(60), "texts")
"""


def test_killed_client_resumes_without_asking_for_answers_twice(make_client: MakeClient, tmp_path: Path) -> None:
    with serving(Endpoint(seconds=0.05)) as endpoint:
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, endpoint.url, str(tmp_path)], cwd=ROOT, stderr=subprocess.DEVNULL)
        wait_for(lambda: len(endpoint.answered) >= 20, seconds=300)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with sqlite3.connect(tmp_path / ".mmalign/cache/endpoints.sqlite") as connection:
            (cached,) = connection.execute("select count(*) from entries").fetchone()
        before = endpoint.requests
        client = make_client(endpoint.url)
        assert texts(client.complete(prompts(60), "texts")) == expected(prompts(60))
        assert endpoint.requests - before == 60 - cached
    assert 17 <= cached <= before
    repeated = [prompt_of(body) for body in endpoint.bodies]
    assert len(repeated) - len(set(repeated)) <= 3, "only what was under way when it was killed"


def test_wait_is_read_from_seconds_and_dates() -> None:
    then = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert wait_seconds("1.5") == 1.5
    assert wait_seconds(then) == pytest.approx(30, abs=2)
    assert wait_seconds(format_datetime(datetime.now(UTC) - timedelta(hours=1))) == 0
    assert wait_seconds("soon") is None
    assert wait_seconds(None) is None
