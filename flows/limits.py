"""Prefect's global concurrency limits of this host: `gpu:<host>` with one slot a GPU, and `cpu:<host>` with one slot.

- A stage takes slots of a limit before it starts, and the machine's locks (components/processes/slots) when it starts. The limit makes
  runs queue where Prefect's page shows them. The locks separate GPUs, also from processes that don't use Prefect, so no fault of a limit
  lets two stages use one GPU.
- The server leases a slot for a minute, and the flow renews the lease. A killed flow thus frees its slots. An outage may cost a run its
  slots, but it ends no training.
- A server that is killed at the wrong instant can forget a lease and still count it. If the server refuses a slot for minutes although
  enough of the machine's locks are free, the flow corrects the count.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.concurrency._asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound

from components.config.settings import Settings
from components.errors import UserError
from components.processes.slots.gpus import machine_gpus, visible_gpus
from components.processes.slots.taking import Need, locked_slots, need_of, too_many
from components.stages import STAGE_NAMES, StageName

LEASE_SECONDS = 60.0  # the shortest lease that the server grants
POLL_SECONDS = 5.0
MESSAGE_SECONDS = 300.0
FORGOTTEN_SECONDS = 300.0  # from a slot to the lock of a GPU: dvc starts and hashes inputs, then the stage starts
# Prefect's service logs a full limit as a failure, with a trace at each poll; here it is normal, and `_wait` logs it.
logging.getLogger("ConcurrencySlotAcquisitionWithLeaseService").setLevel(logging.CRITICAL)
LOCKED = 423  # the server's status while all slots are taken


def limit_name(kind: str) -> str:
    """The name of this host's limit for `gpu` or `cpu`."""
    return f"{kind}:{socket.gethostname()}"


def make_limits(client: SyncPrefectClient) -> dict[str, int]:
    """Create or update this host's limits; returns their sizes by name. A second call changes nothing."""
    gpus = len(machine_gpus() or visible_gpus())
    wanted = {limit_name("cpu"): 1, **({limit_name("gpu"): gpus} if gpus else {})}
    for name, size in wanted.items():
        client.upsert_global_concurrency_limit_by_name(name, size)
    return wanted


def check_limits(settings: Settings, only: tuple[StageName, ...] = ()) -> None:
    """Raises UserError where a stage needs more slots than this host's limits have. For runs of deployments."""
    with get_client(sync_client=True) as client:
        for stage in only or STAGE_NAMES:
            need = need_of(stage, settings)
            if need is not None:
                size = _size(client, need.kind)
                if size is None:
                    raise _missing(limit_name(need.kind))
                _check_size(stage, need, size)


@contextmanager
def limit_slots_taken(
    stage: StageName, settings: Settings, *, deployed: bool, cancel: threading.Event, log: Callable[[str], None]
) -> Iterator[None]:
    """Wait for the slots of this host's limit that `stage` needs, and keep them for the block. A stage without needs takes none.

    A missing limit is a UserError in a run of a deployment; a person's run then relies on the machine's locks. When `cancel` is set, the
    block runs without slots, since its work ends by the same event. Raises httpx's errors where the server stays away.
    """
    need = need_of(stage, settings)
    if need is None:
        yield
        return
    name = limit_name(need.kind)
    with get_client(sync_client=True) as client:
        size = _size(client, need.kind)
        if size is None and deployed:
            raise _missing(name)
        if size is None:
            yield
            return
        _check_size(stage, need, size)
        lease = _wait(client, stage, need, size, cancel, log)
    try:
        yield
    finally:
        if lease is not None:
            try:
                lease.__exit__(None, None, None)
            except Exception as error:  # noqa: BLE001 -- a server that is away must not undo a finished stage; the lease expires by itself
                log(f"{stage}: {name} could not be released ({type(error).__name__}); its lease expires in a minute")


def _wait(
    client: SyncPrefectClient, stage: StageName, need: Need, size: int, cancel: threading.Event, log: Callable[[str], None]
) -> AbstractContextManager[None] | None:
    """The lease of the stage's slots, which its `__exit__` ends; None when `cancel` came first."""
    name = limit_name(need.kind)
    logged = -MESSAGE_SECONDS
    full_at = time.monotonic()  # when the machine's locks last left too little
    while True:
        lease = concurrency(
            name, occupy=need.count, max_retries=0, lease_duration=LEASE_SECONDS, strict=True, raise_on_lease_renewal_failure=False
        )
        try:
            lease.__enter__()
        except ConcurrencySlotAcquisitionError as error:
            _pass_if_locked(error, name)
        else:
            return lease
        now = time.monotonic()
        holders = {slot: holder for slot, holder in locked_slots().items() if slot.startswith(need.kind)}
        if len(holders) + need.count > size:
            full_at = now
        elif now - full_at > FORGOTTEN_SECONDS:
            log(f"{name} counts slots of runs that have ended: the count is corrected")
            client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(active_slots=len(holders)))
            full_at = now
            continue
        if now - logged >= MESSAGE_SECONDS:
            logged = now
            by = "; ".join(f"{holder} uses {slot}" for slot, holder in holders.items())
            log(f"{stage} waits for {need.count} of {name}: {by or 'other runs use it'}")
        if cancel.wait(POLL_SECONDS):
            return None


def _pass_if_locked(error: ConcurrencySlotAcquisitionError, name: str) -> None:
    """Return where all slots are taken; else raise the error behind `error`."""
    cause = error.__cause__
    if isinstance(cause, httpx.HTTPStatusError) and cause.response.status_code == LOCKED:
        return
    raise _missing(name) if cause is None else cause


def _size(client: SyncPrefectClient, kind: str) -> int | None:
    try:
        return client.read_global_concurrency_limit_by_name(limit_name(kind)).limit
    except ObjectNotFound:
        return None


def _check_size(stage: StageName, need: Need, size: int) -> None:
    if need.count > size:
        raise too_many(stage, need.count, size)


def _missing(name: str) -> UserError:
    return UserError(
        f"Prefect's server has no concurrency limit {name}, at which runs of deployments queue: run `mmalign deploy` on this host"
    )
