"""Prefect's global concurrency limits of this host: `gpu:<host>`, as many as it has cards, and `cpu:<host>`, one.

- A stage takes from them before it starts, and the locks of the machine (components/processes/slots) when it starts. The limit makes runs queue where
  Prefect's page shows them; the locks keep cards apart, from those who know nothing of Prefect too. So whatever becomes of a limit, no
  card is used twice.
- A place is leased for a minute and renewed. A flow that was killed gives its place back by that; an outage may cost a run its place, and
  ends no training.
- A server that is killed at the wrong instant can forget a lease and keep it counted. Where a place is refused for minutes although the
  machine's locks leave enough free, the count is put right.
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

LEASE_SECONDS = 60.0  # the server takes no shorter one
LOOK_SECONDS = 5.0
SAY_SECONDS = 300.0
FORGOTTEN_SECONDS = 300.0  # from a place to the lock of a card: dvc's start, its hashing of inputs, the stage's own start
# To Prefect's service a full limit is a failure, with a trace at each look; here it is what is waited for, and said in our own words.
logging.getLogger("ConcurrencySlotAcquisitionWithLeaseService").setLevel(logging.CRITICAL)
LOCKED = 423  # the server's answer while all places are taken


def limit_name(kind: str) -> str:
    """The name of this host's limit for `gpu` or `cpu`."""
    return f"{kind}:{socket.gethostname()}"


def make_limits(client: SyncPrefectClient) -> dict[str, int]:
    """Create this host's limits, or bring them up to what it has; gives their sizes by name. Twice does what once does."""
    cards = len(machine_gpus() or visible_gpus())
    wanted = {limit_name("cpu"): 1, **({limit_name("gpu"): cards} if cards else {})}
    for name, size in wanted.items():
        client.upsert_global_concurrency_limit_by_name(name, size)
    return wanted


def check_limits(settings: Settings, only: tuple[StageName, ...] = ()) -> None:
    """Raises UserError where a stage of a run takes places that this host's limits don't have. For runs that came from a deployment."""
    with get_client(sync_client=True) as client:
        for stage in only or STAGE_NAMES:
            need = need_of(stage, settings)
            if need is not None:
                size = _size(client, need.kind)
                if size is None:
                    raise _missing(limit_name(need.kind))
                _check_size(stage, need, size)


@contextmanager
def place_taken(
    stage: StageName, settings: Settings, *, deployed: bool, cancel: threading.Event, say: Callable[[str], None]
) -> Iterator[None]:
    """Hold what `stage` takes of this host's limit, waiting for it; nothing for a stage that takes nothing.

    A missing limit is a UserError for a run of a deployment, and for a person's run it means that the locks do. Goes on without a place
    when `cancel` is set: what comes next ends by that event. Raises what httpx does where the server stays away.
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
        place = _wait(client, stage, need, size, cancel, say)
    try:
        yield
    finally:
        if place is not None:
            try:
                place.__exit__(None, None, None)
            except Exception as error:  # noqa: BLE001 -- a server that is away must not undo a stage that is done; the lease lapses by itself
                say(f"{stage}: {name} could not be given back ({type(error).__name__}); it is free again in a minute")


def _wait(
    client: SyncPrefectClient, stage: StageName, need: Need, size: int, cancel: threading.Event, say: Callable[[str], None]
) -> AbstractContextManager[None] | None:
    """A place of the limit, to be left by its `__exit__`; None when `cancel` came first."""
    name = limit_name(need.kind)
    said = -SAY_SECONDS
    full_at = time.monotonic()  # when the machine's locks last left too little
    while True:
        place = concurrency(
            name, occupy=need.count, max_retries=0, lease_duration=LEASE_SECONDS, strict=True, raise_on_lease_renewal_failure=False
        )
        try:
            place.__enter__()
        except ConcurrencySlotAcquisitionError as error:
            _pass_if_locked(error, name)
        else:
            return place
        now = time.monotonic()
        holders = {slot: holder for slot, holder in locked_slots().items() if slot.startswith(need.kind)}
        if len(holders) + need.count > size:
            full_at = now
        elif now - full_at > FORGOTTEN_SECONDS:
            say(f"{name} counts places of runs that are gone: its count is put right")
            client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(active_slots=len(holders)))
            full_at = now
            continue
        if now - said >= SAY_SECONDS:
            said = now
            by = "; ".join(f"{slot} is held by {holder}" for slot, holder in holders.items())
            say(f"{stage} waits for {need.count} of {name}: {by or 'other runs hold it'}")
        if cancel.wait(LOOK_SECONDS):
            return None


def _pass_if_locked(error: ConcurrencySlotAcquisitionError, name: str) -> None:
    """Return where all places are taken; else raise what it is."""
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
        f"Prefect's server has no concurrency limit {name}, which runs of deployments queue at: run `mmalign deploy` on this host"
    )
