"""Prefect's limits of this host, on a real server."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from components.checkout import Checkout
from components.config.settings import Settings, load_settings
from components.errors import UserError
from components.processes.slots.locks import Holder, try_slot
from components.stages import StageName
from flows import limits
from flows.limits import check_limits, limit_name, limit_slots_taken, make_limits
from flows.server import own_server, wait_for_server
from tests.checkout import ROOT, alive, behave, clean_environment, mmalign, start_mmalign, started, wait_for

pytestmark = pytest.mark.slow
CPU, GPU = limit_name("cpu"), limit_name("gpu")


@contextmanager
def running_server(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server whose database and leases lie in `folder`; this process is its client."""
    before = dict(os.environ)
    os.environ["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"] = "prefect.server.concurrency.lease_storage.filesystem"
    try:
        with own_server(Checkout(folder), folder / "server.log") as process:
            wait_for_server(process, folder / "server.log", threading.Event())
            with temporary_settings(updates={PREFECT_API_URL: os.environ["PREFECT_API_URL"], PREFECT_CLIENT_MAX_RETRIES: 1}):
                yield process
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(tmp_path_factory.mktemp("server")):
        yield os.environ["PREFECT_API_URL"]


@pytest.fixture
def client(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SyncPrefectClient]:  # noqa: ARG001 -- it needs the server
    """A client of a server without limits, on a host whose slots are free."""
    monkeypatch.setenv("MMALIGN_SLOTS", str(tmp_path / "slots"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(limits, "POLL_SECONDS", 0.3)
    with get_client(sync_client=True) as made:
        for limit in made.read_global_concurrency_limits():
            made.delete_global_concurrency_limit_by_name(limit.name)
        yield made


def settings(**gpus: int) -> Settings:
    made = load_settings(ROOT / "params.yaml")
    return made.model_copy(
        update={"stages": {name: stage.model_copy(update={"gpus": gpus.get(name, 0)}) for name, stage in made.stages.items()}}
    )


def taken(client: SyncPrefectClient, name: str) -> int:
    return client.read_global_concurrency_limit_by_name(name).active_slots


class Waiting(threading.Thread):
    """A stage that waits for its slots and then runs to its end."""

    def __init__(self, stage: StageName, wanting: Settings) -> None:
        super().__init__(daemon=True)
        self.stage, self.wanting = stage, wanting
        self.cancel = threading.Event()
        self.inside, self.leave = threading.Event(), threading.Event()
        self.messages: list[str] = []
        self._settings = copy_context()  # Prefect's, with the address of the server
        self.start()

    def run(self) -> None:
        self._settings.run(self._run)

    def _run(self) -> None:
        with limit_slots_taken(self.stage, self.wanting, deployed=True, cancel=self.cancel, log=self.messages.append):
            self.inside.set()
            self.leave.wait(600)


def test_limits_are_created_once_and_follow_machine(client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_limits(client) == {CPU: 1, GPU: 2}
    first = {limit.name: (limit.id, limit.limit) for limit in client.read_global_concurrency_limits()}
    assert {name: size for name, (_, size) in first.items()} == {CPU: 1, GPU: 2}
    make_limits(client)
    assert {limit.name: (limit.id, limit.limit) for limit in client.read_global_concurrency_limits()} == first
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    make_limits(client)
    assert client.read_global_concurrency_limit_by_name(GPU).limit == 3


def test_host_without_gpus_has_cpu_limit_only(client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("components.processes.slots.gpus.machine_gpus", list)
    assert make_limits(client) == {CPU: 1}


def test_stages_queue_at_limit_and_log_it(client: SyncPrefectClient) -> None:
    make_limits(client)
    first = Waiting("reward", settings())
    assert first.inside.wait(30)
    assert taken(client, CPU) == 1
    second = Waiting("align", settings())
    wait_for(lambda: second.messages)
    assert second.messages == [f"align waits for 1 of {CPU}: other runs use it"]
    assert not second.inside.is_set()
    first.leave.set()
    assert second.inside.wait(30)
    second.leave.set()
    second.join(30)
    assert taken(client, CPU) == 0


def test_stage_takes_one_slot_a_gpu(client: SyncPrefectClient) -> None:
    make_limits(client)
    stage = Waiting("critique", settings(critique=2))
    assert stage.inside.wait(30)
    assert (taken(client, GPU), taken(client, CPU)) == (2, 0)
    stage.leave.set()
    stage.join(30)


def test_stage_without_needs_ignores_limits(client: SyncPrefectClient) -> None:  # noqa: ARG001 -- there are none
    stage = Waiting("validate", settings())
    assert stage.inside.wait(30)
    stage.leave.set()
    stage.join(30)


def test_missing_limit_is_error_in_deployment_only(client: SyncPrefectClient) -> None:  # noqa: ARG001 -- there are none
    with pytest.raises(UserError, match=rf"no concurrency limit {CPU}.*`mmalign deploy`"):
        check_limits(settings())
    with (
        pytest.raises(UserError, match=rf"no concurrency limit {GPU}.*`mmalign deploy`"),
        limit_slots_taken("align", settings(align=1), deployed=True, cancel=threading.Event(), log=print),
    ):
        pass
    with limit_slots_taken("align", settings(align=1), deployed=False, cancel=threading.Event(), log=print):
        pass


def test_limits_are_checked_for_selected_stages(client: SyncPrefectClient) -> None:
    make_limits(client)
    check_limits(settings(align=2))
    with pytest.raises(UserError, match=r"stages\.align\.gpus is 3, but there are 2 GPUs"):
        check_limits(settings(align=3))
    check_limits(settings(align=3), ("validate", "reward"))


def test_cancelled_run_stops_waiting(client: SyncPrefectClient) -> None:
    make_limits(client)
    first = Waiting("reward", settings())
    assert first.inside.wait(30)
    second = Waiting("reward", settings())
    wait_for(lambda: second.messages)
    second.cancel.set()
    assert second.inside.wait(5)
    second.leave.set()
    second.join(10)
    assert taken(client, CPU) == 1, "it released a slot that it never had"
    first.leave.set()
    first.join(30)


def test_forgotten_lease_is_corrected(client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(limits, "FORGOTTEN_SECONDS", 2.0)
    make_limits(client)
    client.update_global_concurrency_limit(CPU, GlobalConcurrencyLimitUpdate(active_slots=1))
    slot = try_slot("cpu", Holder.here(Checkout(tmp_path), "reward"))
    assert slot is not None
    stage = Waiting("align", settings())
    wait_for(lambda: stage.messages)
    assert not stage.inside.wait(4), "the machine's lock is taken: nothing is forgotten"
    slot.release()
    assert stage.inside.wait(30)
    assert stage.messages[-1] == f"{CPU} counts slots of runs that have ended: the count is corrected"
    assert taken(client, CPU) == 1
    stage.leave.set()
    stage.join(30)


def test_killed_server_undoes_no_stage_and_expires_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "another-host")  # Prefect keeps a client a limit, which knows the other server
    name = limit_name("cpu")
    messages: list[str] = []
    with running_server(tmp_path) as server, get_client(sync_client=True) as client:
        make_limits(client)
        with limit_slots_taken("reward", settings(), deployed=True, cancel=threading.Event(), log=messages.append):
            server.send_signal(signal.SIGKILL)
            server.wait()
        assert messages == [f"reward: {name} could not be released (ConnectError); its lease expires in a minute"]
    with running_server(tmp_path), get_client(sync_client=True) as client:
        assert taken(client, name) == 1
        wait_for(lambda: taken(client, name) == 0, 120)


def test_run_of_deployment_queues_and_can_be_cancelled(url: str, client: SyncPrefectClient, checkout: Path) -> None:
    environment = {"PREFECT_API_URL": url, "MMALIGN_FLOW_RUN": "5b9d0c6e-0000-0000-0000-000000000000"}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CUDA_VISIBLE_DEVICES")
        patch.setattr("tests.checkout.clean_environment", lambda: {**clean_environment(), **environment})
        refused = mmalign(checkout, "run")
        assert refused.returncode == 2
        assert f"mmalign: Prefect's server has no concurrency limit {CPU}" in refused.stderr
        assert started(checkout) == []

        make_limits(client)
        other = Waiting("reward", settings())
        assert other.inside.wait(30)
        run = start_mmalign(checkout, "run")
        wait_for(lambda: f"reward waits for 1 of {CPU}" in (checkout / "mmalign.out").read_text(), 120)
        assert started(checkout) == ["validate"]
        run.send_signal(signal.SIGINT)
        assert run.wait(60) == 130
        assert started(checkout) == ["validate"]
        assert alive(checkout) == []

        behave(checkout, "reward", "wait")
        run = start_mmalign(checkout, "run", "--only", "reward")
        wait_for(lambda: f"reward waits for 1 of {CPU}" in (checkout / "mmalign.out").read_text(), 120)
        other.leave.set()
        wait_for((checkout / "waiting.reward").exists, 60)
        assert taken(client, CPU) == 1
        behave(checkout, "reward")
        assert run.wait(60) == 0
        assert taken(client, CPU) == 0
