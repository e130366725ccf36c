"""The kinds of real errors of libraries, provoked where that is fast."""

from __future__ import annotations

import errno
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from components.errors import Cancelled, InfrastructureFault, ServiceAway, StageFault, TrainingFault, UserError
from components.processes.fault_kinds import KINDS, error_of, fault_kind, kind_named, kind_of_words, lost_a_peer


@pytest.fixture
def nobody() -> str:
    """An address without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    return f"http://127.0.0.1:{port}"


def by_requests(address: str) -> None:
    import requests

    requests.get(address, timeout=2)


def by_urllib(address: str) -> None:
    urllib.request.urlopen(address, timeout=2)  # noqa: S310 -- http to the loopback


def by_httpx(address: str) -> None:
    import httpx

    httpx.get(address, timeout=2)


def by_boto3(address: str) -> None:
    import boto3
    from botocore.config import Config

    config = Config(retries={"max_attempts": 0}, connect_timeout=2)
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "eu-central-1"}
    boto3.client("s3", endpoint_url=address, config=config, **keys).list_buckets()


def by_psycopg2(address: str) -> None:
    from sqlalchemy import create_engine

    create_engine(address.replace("http://", "postgresql+psycopg2://a:b@") + "/x").connect()


def by_mlflow(address: str) -> None:
    import os

    from mlflow import MlflowClient

    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    MlflowClient(tracking_uri=address).get_experiment_by_name("x")


@pytest.mark.parametrize("ask", [by_requests, by_urllib, by_httpx, by_boto3, by_psycopg2, by_mlflow])
def test_silent_server_is_infrastructure_for_every_client(ask: Callable[[str], None], nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(Exception) as raised:  # noqa: PT011 -- each library has its own error
        ask(nobody)
    assert fault_kind(raised.value) == "infrastructure"


def test_full_disk_is_infrastructure_for_python_and_torch() -> None:
    full = Path("/dev/full")
    with pytest.raises(OSError, match="No space") as raised, full.open("w") as stream:
        stream.write("x" * 100_000)
    assert fault_kind(raised.value) == "infrastructure"
    with pytest.raises(Exception, match=r"Writer|No space|unexpected pos") as by_torch:
        torch.save(torch.zeros(1_000_000), full)
    assert fault_kind(by_torch.value) == "infrastructure", by_torch.value


def test_exhausted_memory_is_infrastructure() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(10**16)
    assert fault_kind(raised.value) == "infrastructure"
    assert fault_kind(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")) == "infrastructure"
    assert fault_kind(MemoryError()) == "infrastructure"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UserError("a key is unknown"), "mistake"),
        (ServiceAway("MLflow does not answer"), "infrastructure"),
        (TrainingFault("the loss is nan"), "training"),
        (StageFault("no pickles"), "fault"),
        (InfrastructureFault("killed"), "infrastructure"),
        (Cancelled("stopped"), "cancelled"),
        (KeyboardInterrupt(), "cancelled"),
        (SystemExit(143), "infrastructure"),
        (SystemExit(3), "fault"),
        (FileNotFoundError(errno.ENOENT, "no such file"), "fault"),
        (OSError(errno.EIO, "input/output error"), "infrastructure"),
        (ValueError("connection reset is a word in a prompt"), "fault"),
        (KeyError("out of memory"), "fault"),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "infrastructure"),
        (RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:7"), "infrastructure"),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), "fault"),
    ],
)  # fmt: skip
def test_each_error_has_its_kind(error: BaseException, kind: str) -> None:
    assert fault_kind(error) == kind


def test_error_takes_kind_of_its_cause() -> None:
    error = RuntimeError("the upload failed")
    assert fault_kind(error) == "fault"
    error.__cause__ = ConnectionResetError(errno.ECONNRESET, "reset")
    assert fault_kind(error) == "infrastructure"


@pytest.mark.parametrize(("code", "kind"), [(404, "fault"), (403, "fault"), (503, "infrastructure")])
def test_only_server_errors_are_infrastructure(code: int, kind: str) -> None:
    import httpx

    request = httpx.Request("GET", "http://127.0.0.1")
    error = httpx.HTTPStatusError("no", request=request, response=httpx.Response(code, request=request))
    assert fault_kind(error) == kind
    assert fault_kind(urllib.error.HTTPError("http://127.0.0.1", code, "no", None, None)) == kind  # type: ignore[arg-type]


def test_kind_follows_from_dvc_output() -> None:
    assert kind_of_words("ERROR: failed to reproduce 'reward': [Errno 28] No space left on device") == "infrastructure"
    assert kind_of_words("ERROR: failed to reproduce 'reward': output 'x' is already specified in stage 'y'") == "fault"


def test_kind_survives_round_trip() -> None:
    for kind in KINDS:
        assert fault_kind(error_of(kind, "a sentence")) == kind
    assert kind_named("nonsense") == "fault"


def test_lost_peer_differs_from_failed_rank() -> None:
    assert lost_a_peer(RuntimeError("Connection closed by peer [127.0.0.1]:38467"))
    assert not lost_a_peer(RuntimeError("shape mismatch"))
    assert not lost_a_peer(TrainingFault("the connection was reset"))
