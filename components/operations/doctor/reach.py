"""Checks of what lies elsewhere: DVC's remotes, and the clocks of the machines that this one works with."""

from __future__ import annotations

import os
import time
import uuid
from contextlib import closing
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from components.operations.doctor.findings import Finding, ok, problem, warning
from components.operations.services.programs import ARTIFACTS_BUCKET
from components.storage.data_version import UNSET_BUCKET
from components.storage.repository import open_repository

SKEW_SECONDS = 60.0  # S3 refuses a request whose time is a quarter of an hour off; schedules and heartbeats suffer before
PROBE = b"written by mmalign doctor, and removed at once\n"
PATIENCE_SECONDS = 10


def remotes(root: Path) -> Finding:
    """Every remote verifies what it gives, and those in the network can be written."""
    if not (root / ".dvc").is_dir():
        return ok("no .dvc folder, no remotes")
    with open_repository(root) as repository:
        config: dict[str, Any] = repository.config.get("remote", {})
        unverified = [name for name, remote in config.items() if not remote.get("verify")]
        if unverified:
            return problem(
                f"the remote '{unverified[0]}' does not verify what it gives: a damaged object would be used",
                f"dvc remote modify {unverified[0]} verify true",
            )
        distant = [name for name, remote in config.items() if "://" in str(remote["url"]) and UNSET_BUCKET not in str(remote["url"])]
        if not distant:
            return ok("no remote in the network is set up; all verify what they give")
        for name in distant:
            why = _write(repository, name)
            if why is not None:
                return problem(f"the remote '{name}' can't be written: {why}", f"check bucket, keys and rights; then: dvc push -r {name}")
    return ok(f"{', '.join(distant)} can be written; all verify what they give")


def clock(root: Path) -> Finding:  # noqa: ARG001 -- every check takes the checkout
    """This machine's clock agrees with the database server's and the bucket's, where they are elsewhere."""
    skews: dict[str, float] = {}
    silent: list[str] = []
    for name, ask in (("DATABASE_URL", _database_skew), ("the bucket", _bucket_skew)):
        try:
            found = ask()
        except Exception as error:  # noqa: BLE001 -- drivers raise what they like; other checks say what is wrong with them
            silent.append(f"{name} can't be asked ({type(error).__name__})")
            continue
        if found is not None:
            skews[name] = found
    if not skews:
        return ok("; ".join(silent) or "nothing that this machine works with has a clock of its own")
    listed = "; ".join([*(f"{skew:+.1f} s against {name}" for name, skew in skews.items()), *silent])
    if any(abs(skew) > SKEW_SECONDS for skew in skews.values()):
        return warning(f"this machine's clock is off: {listed}", "set it by the network: timedatectl set-ntp true")
    return ok(listed)


def _write(repository: Any, name: str) -> str | None:
    """Why a small object can't be put there and removed; None where it can."""
    try:
        remote = repository.cloud.get_remote_odb(name)
        path = remote.fs.join(remote.path, f".mmalign-doctor-{uuid.uuid4().hex}")
        remote.fs.pipe_file(path, PROBE)
        try:
            if remote.fs.cat_file(path) != PROBE:
                return "it gives back other bytes than were written"
        finally:
            remote.fs.remove(path)
    except Exception as error:  # noqa: BLE001 -- every kind of storage raises errors of its own
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return None


def _database_skew() -> float | None:
    if "DATABASE_URL" not in os.environ:
        return None
    import psycopg2

    with (
        closing(psycopg2.connect(os.environ["DATABASE_URL"], connect_timeout=PATIENCE_SECONDS)) as connection,
        connection.cursor() as cursor,
    ):
        before = time.time()
        cursor.execute("select extract(epoch from clock_timestamp())")
        there = float(cursor.fetchone()[0])
        return (before + time.time()) / 2 - there


def _bucket_skew() -> float | None:
    """By the Date of any answer, a refusal's too; its resolution is a second."""
    bucket = os.environ.get(ARTIFACTS_BUCKET)
    if not bucket:
        return None
    import boto3
    from botocore.config import Config
    from botocore.exceptions import ClientError

    patience = Config(connect_timeout=PATIENCE_SECONDS, read_timeout=PATIENCE_SECONDS, retries={"max_attempts": 1})
    client = boto3.client("s3", endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL") or None, config=patience)
    try:
        answer = client.head_bucket(Bucket=bucket)
    except ClientError as error:
        answer = error.response
    there = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return None if there is None else time.time() - parsedate_to_datetime(there).timestamp()
