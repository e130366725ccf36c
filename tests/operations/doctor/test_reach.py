from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.operations.doctor import reach
from components.operations.services.programs import ARTIFACTS_BUCKET
from tests.checkout import wait_for


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", ARTIFACTS_BUCKET, "MLFLOW_S3_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The address of a server of S3 with the bucket `ours`."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    server = subprocess.Popen([str(Path(sys.executable).parent / "moto_server"), "-p", str(port)], stderr=subprocess.DEVNULL)
    try:
        import boto3

        def made() -> bool:
            try:
                client = boto3.client(
                    "s3",
                    endpoint_url=f"http://127.0.0.1:{port}",
                    region_name="us-east-1",
                    aws_access_key_id="testing",
                    aws_secret_access_key="testing",
                )
                return bool(client.create_bucket(Bucket="ours"))
            except Exception:  # noqa: BLE001 -- it does not answer yet
                return False

        wait_for(made)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def remote(root: Path, *settings: str) -> None:
    subprocess.run([str(Path(sys.executable).parent / "dvc"), "remote", *settings], cwd=root, check=True, capture_output=True)


def test_remote_without_verify_is_problem(checkout: Path) -> None:
    assert reach.remotes(Checkout(checkout)).state == "ok"
    remote(checkout, "modify", "s3", "verify", "false")
    finding = reach.remotes(Checkout(checkout))
    assert finding.state == "problem"
    assert finding.cure == "dvc remote modify s3 verify true"


def test_writable_bucket_is_ok_and_stays_empty(checkout: Path, bucket: str) -> None:
    import boto3

    remote(checkout, "modify", "s3", "url", "s3://ours/mmalign")
    remote(checkout, "modify", "s3", "endpointurl", bucket)
    assert reach.remotes(Checkout(checkout)).text.startswith("s3 can be written")
    assert "Contents" not in boto3.client("s3", endpoint_url=bucket).list_objects_v2(Bucket="ours")
    remote(checkout, "modify", "s3", "url", "s3://not-there/mmalign")
    finding = reach.remotes(Checkout(checkout))
    assert finding.state == "problem"
    assert "the remote 's3' can't be written" in finding.text


@contextmanager
def wrong_clock(seconds: float) -> Iterator[str]:
    """A server whose clock is ahead; it refuses everything, as S3 does where keys are wrong."""
    import time

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response_only(403)
            self.send_header("Date", formatdate(time.time() + seconds, usegmt=True))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_clock_off_by_minutes_is_warning(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reach.clock(Checkout(checkout)).state == "ok"
    monkeypatch.setenv(ARTIFACTS_BUCKET, "ours")
    for ahead, state in ((5.0, "ok"), (300.0, "warning"), (-300.0, "warning")):
        with wrong_clock(ahead) as address:
            monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", address)
            finding = reach.clock(Checkout(checkout))
            assert finding.state == state, finding
            assert "against the bucket" in finding.text
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:1")
    assert "does not answer" in reach.clock(Checkout(checkout)).text


def test_clock_is_compared_with_database_server(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from components.operations.services import temporary_postgres
    from components.operations.services.state import Addresses, create_secrets, database_url, free_port

    addresses, secrets = Addresses("127.0.0.1", 0, 0, free_port(set())), create_secrets(Checkout(tmp_path))
    with temporary_postgres.database(Checkout(tmp_path), tmp_path / "db", addresses, secrets):
        monkeypatch.setenv("DATABASE_URL", database_url(addresses, secrets, "postgres", "postgresql"))
        finding = reach.clock(Checkout(checkout))
        assert finding.state == "ok"
        assert "against DATABASE_URL" in finding.text
