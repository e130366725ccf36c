"""Checks over the network: DVC's remotes, and the clocks of the database server and the bucket."""

from __future__ import annotations

import os
import time
import uuid
from contextlib import closing
from email.utils import parsedate_to_datetime
from typing import Any

from components.checkout import Checkout
from components.operations.doctor.findings import Finding, ok, problem, warning
from components.operations.services.programs import ARTIFACTS_BUCKET
from components.storage.data_version import UNSET_BUCKET
from components.storage.repository import open_repository

SKEW_SECONDS = 60.0  # S3 refuses a request that is 15 minutes off; schedules and heartbeats suffer before
PROBE = b"mmalign doctor writes this and removes it at once\n"
PATIENCE_SECONDS = 10


def remotes(checkout: Checkout) -> Finding:
    """DVC verifies downloads from every remote, and this machine can write to remotes in the network."""
    if not checkout.dvc.is_dir():
        return ok("no .dvc folder, so no remotes")
    with open_repository(checkout) as repository:
        config: dict[str, Any] = repository.config.get("remote", {})
        unverified = [name for name, remote in config.items() if not remote.get("verify")]
        if unverified:
            return problem(
                f"DVC does not verify downloads from the remote '{unverified[0]}': a run would use a damaged object",
                f"dvc remote modify {unverified[0]} verify true",
            )
        distant = [name for name, remote in config.items() if "://" in str(remote["url"]) and UNSET_BUCKET not in str(remote["url"])]
        if not distant:
            return ok("no remote in the network is set up; DVC verifies downloads")
        for name in distant:
            why = _write(repository, name)
            if why is not None:
                return problem(f"the remote '{name}' can't be written: {why}", f"check bucket, keys and rights; then: dvc push -r {name}")
    return ok(f"{', '.join(distant)} can be written; DVC verifies downloads")


def clock(checkout: Checkout) -> Finding:  # noqa: ARG001 -- every check takes the checkout
    """This machine's clock agrees with the clocks of the database server and the bucket."""
    skews: dict[str, float] = {}
    silent: list[str] = []
    for name, ask in (("DATABASE_URL", _database_skew), ("the bucket", _bucket_skew)):
        try:
            skew = ask()
        except Exception as error:  # noqa: BLE001 -- drivers raise any error; other checks report the fault
            silent.append(f"{name} does not answer ({type(error).__name__})")
            continue
        if skew is not None:
            skews[name] = skew
    if not skews:
        return ok("; ".join(silent) or "no database server and no bucket is set up, so no clock is compared")
    listed = "; ".join([*(f"{offset:+.1f} s against {name}" for name, offset in skews.items()), *silent])
    if any(abs(offset) > SKEW_SECONDS for offset in skews.values()):
        return warning(f"this machine's clock is off: {listed}", "synchronize it: timedatectl set-ntp true")
    return ok(listed)


def _write(repository: Any, name: str) -> str | None:
    """Write, read and remove a small object. Returns the failure, or None."""
    try:
        remote = repository.cloud.get_remote_odb(name)
        path = remote.fs.join(remote.path, f".mmalign-doctor-{uuid.uuid4().hex}")
        remote.fs.pipe_file(path, PROBE)
        try:
            if remote.fs.cat_file(path) != PROBE:
                return "it returns other bytes than mmalign wrote"
        finally:
            remote.fs.remove(path)
    except Exception as error:  # noqa: BLE001 -- every kind of storage has its own errors
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
        remote_time = float(cursor.fetchone()[0])
        return (before + time.time()) / 2 - remote_time


def _bucket_skew() -> float | None:
    """By the Date header of any reply, even of a refusal. Its resolution is a second."""
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
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return None if date is None else time.time() - parsedate_to_datetime(date).timestamp()
