"""Pushes after a run, to a real S3 server over HTTP, with the real DVC and git."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto.server import ThreadedMotoServer

from components.checkout import Checkout
from components.storage.push import Pushed, commit_lock, has_bucket, push_run
from tests.checkout import clean_environment, git

CANARY = "canary-in-the-secret-key"


@pytest.fixture(name="bucket")
def fixture_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty bucket `team` on a local server: its address, and a client."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    client = boto3.client("s3", endpoint_url=address, aws_access_key_id="AK", aws_secret_access_key=CANARY, region_name="us-east-1")
    client.create_bucket(Bucket="team")
    yield address, client
    server.stop()


def point_to(checkout: Path, address: str) -> None:
    text = (checkout / ".dvc/config").read_text()
    (checkout / ".dvc/config").write_text(text.replace("SET-YOUR-BUCKET", "team"))
    (checkout / ".dvc/config.local").write_text(
        f"['remote \"s3\"']\n    endpointurl = {address}\n    access_key_id = AK\n    secret_access_key = {CANARY}\n    region = us-east-1\n"
    )


def repro(checkout: Path, stage: str) -> None:
    subprocess.run(["dvc", "repro", stage], cwd=checkout, check=True, capture_output=True, env=clean_environment())


def keys(client: Any) -> set[str]:
    return {entry["Key"] for entry in client.list_objects_v2(Bucket="team").get("Contents", [])}


def test_push_without_bucket_does_nothing(checkout: Path) -> None:
    assert not has_bucket(Checkout(checkout))
    assert push_run(Checkout(checkout), checkout, checkout / "push.log") is None


def test_run_is_pushed_while_dvc_is_locked(checkout: Path, bucket: Any) -> None:
    address, client = bucket
    point_to(checkout, address)
    repro(checkout, "validate")
    holder = subprocess.Popen(
        [
            "python",
            "-c",
            "import sys; from dvc.repo import Repo; r = Repo('.'); r.lock.lock(); print('held', flush=True); sys.stdin.read()",
        ],
        cwd=checkout,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"

    pushed = push_run(Checkout(checkout), checkout, checkout / "logs/push.log")

    holder.communicate(b"")
    assert pushed is not None
    assert pushed.ok, (checkout / "logs/push.log").read_text()
    pushed_keys = keys(client)
    made = yaml.safe_load((checkout / "dvc.lock").read_text())["stages"]["validate"]["outs"]
    assert {f"mmalign/files/md5/{out['md5'][:2]}/{out['md5'][2:]}" for out in made} <= pushed_keys
    assert any(key.startswith("mmalign/runs/") for key in pushed_keys)
    assert (Checkout(checkout).push / ".dvc/config").stat().st_mode & 0o077 == 0
    assert CANARY not in (checkout / "logs/push.log").read_text() + pushed.sentence
    assert git(checkout, "status", "--porcelain", "--", "data.dvc", "infra") == ""


@pytest.mark.slow
def test_silent_remote_fails_only_push(checkout: Path) -> None:
    point_to(checkout, "http://127.0.0.1:9")
    repro(checkout, "validate")

    pushed = push_run(Checkout(checkout), checkout, checkout / "logs/push.log", seconds=120)

    assert pushed is not None
    assert not pushed.ok
    assert "the next run pushes again" in pushed.sentence
    assert pushed.log == checkout / "logs/push.log"


def test_cancelled_run_ends_push(checkout: Path, bucket: Any) -> None:
    point_to(checkout, bucket[0])
    cancel = threading.Event()
    cancel.set()

    pushed = push_run(Checkout(checkout), checkout, checkout / "logs/push.log", cancel=cancel)

    assert pushed is not None
    assert "it was cancelled" in pushed.sentence


@pytest.fixture(name="clone")
def fixture_clone(checkout: Path) -> Path:
    """A run's clone of the checkout, with a changed lock."""
    folder = checkout.parent / "clone"
    subprocess.run(["git", "clone", "--quiet", str(checkout), str(folder)], check=True)
    git(folder, "checkout", "--quiet", "--detach", "HEAD")
    (folder / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    (folder / "notes.txt").write_text("not the run's\n")
    return folder


def test_clone_lock_is_pushed_and_checkout_is_unchanged(checkout: Path, clone: Path) -> None:
    before = (git(checkout, "rev-parse", "HEAD"), git(checkout, "status", "--porcelain"), git(checkout, "branch", "--show-current"))

    pushed = commit_lock(clone, "mmalign/nightly/2026-11-25-abcd1234", push=True)

    assert pushed == Pushed(True, "dvc.lock was pushed to branch mmalign/nightly/2026-11-25-abcd1234")
    changed = git(checkout, "diff", "--name-only", "main", "mmalign/nightly/2026-11-25-abcd1234")
    assert changed.split() == ["dvc.lock"]
    after = (git(checkout, "rev-parse", "HEAD"), git(checkout, "status", "--porcelain"), git(checkout, "branch", "--show-current"))
    assert after == before


def test_branch_stays_in_clone_without_push_lock(checkout: Path, clone: Path) -> None:
    pushed = commit_lock(clone, "mmalign/nightly/x", push=False)

    assert pushed is not None
    assert pushed.ok
    assert "push_lock" in pushed.sentence
    assert git(clone, "show", "mmalign/nightly/x:dvc.lock").startswith("schema")
    assert "mmalign/nightly" not in git(checkout, "branch", "--all")


def test_unchanged_lock_makes_no_branch(clone: Path) -> None:
    (clone / "dvc.lock").unlink()

    assert commit_lock(clone, "mmalign/nightly/x", push=True) is None


def test_refusing_origin_sentence_hides_password(clone: Path) -> None:
    git(clone, "remote", "set-url", "origin", "http://user:hunter22@127.0.0.1:9/x.git")

    pushed = commit_lock(clone, "mmalign/nightly/x", push=True)

    assert pushed is not None
    assert not pushed.ok
    assert "could not be pushed" in pushed.sentence
    assert "hunter22" not in pushed.sentence
