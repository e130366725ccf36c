"""Data to and from S3 over a bad network: DVC retries faults, and never accepts wrong bytes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from components.checkout import Checkout
from components.errors import UserError
from components.storage.data_version import sync_data
from components.storage.push import push_run
from tests.checkout import clean_environment
from tests.faulty_s3 import FaultyS3, faulty_s3

ACCESS, SECRET = "AK-known", "canary-of-a-secret-key"


@pytest.fixture(name="s3")
def fixture_s3(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """The checkout's remote `s3`, with a bucket behind a proxy that can fail."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with faulty_s3(ACCESS) as state:
        client = boto3.client(
            "s3", endpoint_url=state.address, aws_access_key_id=ACCESS, aws_secret_access_key=SECRET, region_name="us-east-1"
        )
        client.create_bucket(Bucket="team")
        text = (checkout / ".dvc/config").read_text()
        (checkout / ".dvc/config").write_text(text.replace("SET-YOUR-BUCKET", "team"))
        configure(checkout, state.address, ACCESS)
        yield state


def configure(checkout: Path, address: str, access: str) -> None:
    lines = {
        "endpointurl": address,
        "access_key_id": access,
        "secret_access_key": SECRET,
        "region": "us-east-1",
        "read_timeout": "1",
        "connect_timeout": "1",
    }
    text = "['remote \"s3\"']\n" + "".join(f"    {key} = {value}\n" for key, value in lines.items())
    (checkout / ".dvc/config.local").write_text(text)


def own_data(checkout: Path) -> None:
    """Commit a team's own data, which only the bucket can restore."""
    (checkout / "data/preferences/data.jsonl").write_text("row of our own\n" * 100)
    sync_data(Checkout(checkout), accept=False, log=lambda _: None)


def push(checkout: Path) -> None:
    completed = dvc(checkout, "push", "-r", "s3", "data.dvc")
    assert completed.returncode == 0, completed.stderr


def dvc(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["dvc", *arguments], cwd=checkout, env=clean_environment(), capture_output=True, text=True, check=False)


def lose_data(checkout: Path) -> None:
    """Remove data and cache, as in a fresh clone."""
    shutil.rmtree(checkout / "data")
    shutil.rmtree(checkout / ".dvc/cache")


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["busy", "cut", "silent"])
def test_passing_fault_is_retried(checkout: Path, s3: FaultyS3, fault: str) -> None:
    own_data(checkout)
    push(checkout)
    lose_data(checkout)
    s3.fail(fault, times=2, method="GET", of="/files/md5/")  # type: ignore[arg-type]
    sync_data(Checkout(checkout), accept=False, log=lambda _: None)
    assert (checkout / "data/preferences/data.jsonl").read_text() == "row of our own\n" * 100


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["flipped", "cut"])
def test_wrong_bytes_are_never_accepted(checkout: Path, s3: FaultyS3, fault: str) -> None:
    own_data(checkout)
    push(checkout)
    lose_data(checkout)
    s3.fail(fault, method="GET", of="/files/md5/")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"can't be fetched|neither in DVC's cache nor in a remote"):
        sync_data(Checkout(checkout), accept=False, log=lambda _: None)
    assert not (checkout / "data/preferences/data.jsonl").is_file()
    s3.fail("none")
    sync_data(Checkout(checkout), accept=False, log=lambda _: None)
    assert (checkout / "data/preferences/data.jsonl").read_text() == "row of our own\n" * 100


@pytest.mark.slow
@pytest.mark.parametrize(("access", "fault"), [("AK-unknown", "none"), (ACCESS, "busy")])
def test_refused_push_sentence_hides_key(checkout: Path, s3: FaultyS3, access: str, fault: str) -> None:
    own_data(checkout)
    configure(checkout, s3.address, access)
    s3.fail(fault, method="PUT")  # type: ignore[arg-type]
    pushed = push_run(Checkout(checkout), checkout, checkout / "logs/push.log", seconds=240)
    assert pushed is not None
    assert not pushed.ok
    assert "the next run pushes again" in pushed.sentence
    assert SECRET not in pushed.sentence + (checkout / "logs/push.log").read_text()
    s3.fail("none")
    configure(checkout, s3.address, ACCESS)
    second = push_run(Checkout(checkout), checkout, checkout / "logs/push.log")
    assert second is not None
    assert second.ok, second.sentence
