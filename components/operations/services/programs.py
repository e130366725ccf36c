"""The programs of the services. supervisor runs each as `python -m components.operations.services.programs NAME ROOT`.

This process waits for the services that NAME needs, and then becomes NAME. Passwords reach a service by its environment, or by files that
only their owner reads, never by a command line.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from components.checkout import Checkout
from components.errors import StageFault, UserError
from components.files import write_atomic
from components.operations.environment import QUIET
from components.operations.services import postgres
from components.operations.services.door import HOSTS
from components.operations.services.health import answers
from components.operations.services.prefect_environment import PrefectServer
from components.operations.services.state import HEARTBEAT_SECONDS, Addresses, client_environment, database_url, read_addresses
from components.processes.marks import SERVICE, SERVICE_MARK, MarkedProcess, checkout_mark, kill_all, marked
from components.processes.secrets import Secrets, owner_only, read_secrets, state_folder
from components.stages import command

# "sentinel" is the monitor. Running supervisors and containers of earlier versions know it by this name.
NAMES = ("postgres", "prefect", "mlflow", "worker", "sentinel")
SERVERS = ("postgres", "prefect", "mlflow")
POOL = "mmalign"
WAIT_SECONDS = 600.0  # for a service that another needs; the first start of Prefect's database takes a minute on a busy machine
AUTH_CACHE_SECONDS = 60
ARTIFACTS_BUCKET = "MMALIGN_S3_BUCKET"


def main(name: str, checkout: Checkout) -> None:
    """Become the service `name` of `checkout`."""
    # A process that a script starts with & ignores Ctrl-C, and so do its children. Prefect's worker would then ignore its end.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    addresses = read_addresses(checkout)
    if addresses is None:
        raise UserError(f"{checkout.root} has no services: run `mmalign up` there")
    if name == "mlflow":
        kill_all(lambda: _of_service(checkout, name))
    if name in SERVERS:
        os.umask(0o077)  # a server gives its files to whoever it lets in, and to nobody else on the machine
    programs = {"postgres": _postgres, "prefect": _prefect, "mlflow": _mlflow, "worker": _worker, "sentinel": _monitor}
    command, environment = programs[name](checkout, addresses, read_secrets(checkout))
    os.execve(command[0], command, {**os.environ, **QUIET, **environment})  # noqa: S606 -- no shell, and our own command


def _of_service(checkout: Checkout, name: str) -> list[MarkedProcess]:
    """What a killed service left behind: MLflow's server outlives the command that started it, and holds its port."""
    live = []
    for process in marked(SERVICE_MARK, checkout_mark(checkout)):
        with suppress(psutil.Error):
            if psutil.Process(process.pid).environ().get(SERVICE) == name:
                live.append(process)
    return live


Program = tuple[list[str], dict[str, str]]


def _postgres(checkout: Checkout, addresses: Addresses, secrets: Secrets) -> Program:
    state = state_folder(checkout)
    postgres.initialize(state, secrets)
    command = postgres.server_command(state, addresses.postgres_port)
    return [_absolute(command[0]), *command[1:]], {}


def _prefect(checkout: Checkout, addresses: Addresses, secrets: Secrets) -> Program:
    wait_for("PostgreSQL", lambda: postgres.answers(addresses, secrets))
    postgres.make_databases(addresses, secrets)
    server = PrefectServer(
        state_folder(checkout) / "prefect",
        database_url(addresses, secrets, "prefect", "postgresql+asyncpg"),
        addresses.prefect,
        secrets.prefect_auth,
        addresses.hosts,
    )
    server.make_home()
    return [*command("prefect_server"), addresses.host, str(addresses.prefect_port)], server.server_environment()


def _mlflow(checkout: Checkout, addresses: Addresses, secrets: Secrets) -> Program:
    wait_for("PostgreSQL", lambda: postgres.answers(addresses, secrets))
    postgres.make_databases(addresses, secrets)
    state = state_folder(checkout)
    config = state / "mlflow-auth.ini"
    lines = {
        "default_permission": "NO_PERMISSIONS",
        # Each check of a password costs a third of a second by design, and every request has one. The cache delays changes of passwords
        # and users by this time.
        "auth_cache_ttl_seconds": str(AUTH_CACHE_SECONDS),
        "database_uri": database_url(addresses, secrets, "mlflow_auth", "postgresql+psycopg2").replace("%", "%%"),
        "admin_username": secrets.mlflow_user,
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
    }
    with owner_only():
        write_atomic(config, "[mlflow]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items()))
    checkout.mlruns.mkdir(exist_ok=True)
    checkout.mlruns.resolve().chmod(0o700)  # the artifacts of earlier runs, which everybody could read
    environment = {
        "MLFLOW_BACKEND_STORE_URI": database_url(addresses, secrets, "mlflow", "postgresql+psycopg2"),
        "MLFLOW_ARTIFACTS_DESTINATION": artifacts(checkout),
        "MLFLOW_SERVE_ARTIFACTS": "true",
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_AUTH_ADMIN_USERNAME": secrets.mlflow_user,
        "MLFLOW_AUTH_ADMIN_PASSWORD": secrets.mlflow_password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.mlflow_key,
        HOSTS: ",".join(addresses.hosts),
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(name for host in addresses.hosts for name in (host, f"{host}:*")),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its seven consumers would outlive the server
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        os.environ.pop(name, None)
    arguments = ["--app-name", "basic-auth", "--workers", "1", "--host", addresses.host, "--port", str(addresses.mlflow_port)]
    return [*command("mlflow_server"), *arguments], environment


def _worker(checkout: Checkout, addresses: Addresses, secrets: Secrets) -> Program:  # noqa: ARG001 -- one signature for all
    environment = client_environment(checkout)
    os.environ.update(environment)
    wait_for("Prefect's server", lambda: answers(f"{addresses.prefect}/api/ready"))
    environment["PREFECT_WORKER_HEARTBEAT_SECONDS"] = str(HEARTBEAT_SECONDS)
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process", "--create-pool-if-not-found"]
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", checkout.root.name)  # Prefect refuses some characters
    return [*command, "--name", f"{name}-{os.uname().nodename}"], environment


def _monitor(checkout: Checkout, addresses: Addresses, secrets: Secrets) -> Program:  # noqa: ARG001 -- one signature for all
    return [*command("monitor"), str(checkout.root)], {}


def artifacts(checkout: Checkout) -> str:
    """The location of MLflow's artifacts: the checkout's mlruns/, or a bucket."""
    bucket = os.environ.get(ARTIFACTS_BUCKET)
    return f"s3://{bucket}/mlflow" if bucket else checkout.mlruns.resolve().as_uri()


def wait_for(service: str, answers: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
    """Wait until `answers()` is true. Raises StageFault after `seconds`."""
    until = time.monotonic() + seconds
    while not answers():
        if time.monotonic() > until:
            raise StageFault(f"{service} did not answer within {seconds:.0f} seconds")
        time.sleep(0.3)


def _absolute(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise UserError(f"{program} is not on PATH")
    return path


if __name__ == "__main__":
    main(sys.argv[1], Checkout(Path(sys.argv[2])))
