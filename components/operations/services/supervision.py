"""Runs the services under supervisor, which starts them, restarts them when they end, and rotates their logs.

supervisor listens on a socket in the state folder. All its processes carry the checkout's mark, so that the leftovers of a killed supervisor
can be found and ended.
"""

from __future__ import annotations

import os
import shlex
import signal
import stat
import subprocess
import sys
import time
import xmlrpc.client
from pathlib import Path
from typing import Any

from components.checkout import Checkout
from components.config.ops import ServicesSettings
from components.errors import StageFault, UserError
from components.files import write_atomic
from components.operations.services.programs import NAMES
from components.operations.services.state import Addresses
from components.processes.marks import SERVICE_MARK, MarkedProcess, checkout_mark, kill_all, marked, send, wait_until_ended
from components.processes.secrets import OWNER_ONLY, Secrets, owner_only, state_folder
from components.stages import command

STOP_SECONDS = 60  # from the signal to SIGKILL: the worker ends its flows, and these end their stages
SHARED = Path("/tmp")  # noqa: S108 -- a folder in it is used where it is this user's alone
SIGNALS = {"postgres": "INT"}  # PostgreSQL's fast and clean end; TERM waits for clients


def paths(checkout: Checkout) -> dict[str, str]:
    """The paths that the configuration names by variables of supervisord's environment: any characters of a folder's name would stand for
    something else in its file."""
    return {
        "MMALIGN_SOCKET": str(socket_file(checkout)),
        "MMALIGN_SERVICES": str(state_folder(checkout)),
        "MMALIGN_LOGS": str(log_folder(checkout)).replace("%", "%%"),  # supervisor expands the logs of programs twice
        "MMALIGN_ROOT": str(checkout.root),
        "MMALIGN_PROGRAM": shlex.join(command("service")),
        "MMALIGN_ROOT_WORD": shlex.quote(str(checkout.root)),
    }


def configuration(addresses: Addresses, secrets: Secrets, settings: ServicesSettings) -> str:
    """The text of supervisord's configuration."""
    lines = [
        "[unix_http_server]",
        "file=%(ENV_MMALIGN_SOCKET)s",
        "chmod=0700",
        "username=mmalign",
        f"password={secrets.supervisor}",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface",
        "[supervisord]",
        "nodaemon=true",
        "logfile=%(ENV_MMALIGN_SERVICES)s/logs/supervisord.log",
        f"logfile_maxbytes={settings.log_max_mb}MB",
        f"logfile_backups={settings.log_backups}",
        "pidfile=%(ENV_MMALIGN_SERVICES)s/supervisord.pid",
        "directory=%(ENV_MMALIGN_ROOT)s",
        "silent=true",
    ]
    names = [name for name in NAMES if name != "postgres" or not addresses.external_database]
    for priority, name in enumerate(names, start=1):
        lines += [
            f"[program:{name}]",
            f"command=%(ENV_MMALIGN_PROGRAM)s {name} %(ENV_MMALIGN_ROOT_WORD)s",
            f"priority={priority}",
            "autostart=true",
            "autorestart=true",
            "startsecs=3",
            "startretries=1000",
            f"stopsignal={SIGNALS.get(name, 'TERM')}",
            f"stopwaitsecs={STOP_SECONDS}",
            "redirect_stderr=true",
            f"stdout_logfile=%(ENV_MMALIGN_LOGS)s/{name}.log",
            f"stdout_logfile_maxbytes={settings.log_max_mb}MB",
            f"stdout_logfile_backups={settings.log_backups}",
        ]
    return "\n".join(lines) + "\n"


def log_folder(checkout: Checkout) -> Path:
    """The folder of the services' logs."""
    return state_folder(checkout) / "logs"


def socket_file(checkout: Checkout) -> Path:
    """supervisor's socket. A socket's path has at most 107 bytes, so a deep checkout has it in the runtime folder."""
    path = state_folder(checkout) / "supervisor.sock"
    if len(os.fsencode(path)) <= 100:
        return path
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or SHARED / f"mmalign-{os.getuid()}")
    base.mkdir(mode=0o700, exist_ok=True)
    at = base.lstat()  # everybody knows this name, so another user may have made a folder or a link of it
    if at.st_uid != os.getuid() or (base.parent == SHARED and (not stat.S_ISDIR(at.st_mode) or at.st_mode & OWNER_ONLY)):
        raise UserError(f"{base} is no folder of this user alone, and {path} is too long for a socket: set XDG_RUNTIME_DIR to one that is")
    return base / f"{checkout_mark(checkout)}.sock"


def start(checkout: Checkout, addresses: Addresses, secrets: Secrets, settings: ServicesSettings) -> subprocess.Popen[bytes]:
    """Start supervisor with all services, in a new session."""
    log_folder(checkout).mkdir(parents=True, exist_ok=True)
    path = state_folder(checkout) / "supervisord.conf"
    with owner_only():
        write_atomic(path, configuration(addresses, secrets, settings))
    code = str(Path(__file__).resolve().parents[3])
    python_path = os.pathsep.join(filter(None, [code, os.environ.get("PYTHONPATH")]))
    with (log_folder(checkout) / "supervisord.out").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(path)],
            cwd=checkout.root,
            env={**os.environ, **paths(checkout), SERVICE_MARK: checkout_mark(checkout), "PYTHONPATH": python_path},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def control(checkout: Checkout, secrets: Secrets) -> Any:
    """supervisor's XML-RPC interface. Its calls raise OSError where supervisor does not run."""
    from supervisor.xmlrpc import SupervisorTransport

    transport = SupervisorTransport("mmalign", secrets.supervisor, f"unix://{socket_file(checkout)}")
    return xmlrpc.client.ServerProxy("http://localhost", transport=transport).supervisor


def states(checkout: Checkout, secrets: Secrets) -> dict[str, str]:
    """supervisor's state of each service (RUNNING, STARTING, BACKOFF, FATAL ...); empty where supervisor does not run."""
    try:
        return {str(one["name"]): str(one["statename"]) for one in control(checkout, secrets).getAllProcessInfo()}
    except (OSError, xmlrpc.client.Error):
        return {}


def processes(checkout: Checkout) -> list[MarkedProcess]:
    """All processes of this checkout's services, their flows and stages included."""
    return marked(SERVICE_MARK, checkout_mark(checkout))


def stop(checkout: Checkout, secrets: Secrets | None) -> int:
    """End all services, flows first. Returns the number of processes that needed SIGKILL. Raises StageFault where some survive it."""
    if secrets is not None and states(checkout, secrets):
        try:
            control(checkout, secrets).shutdown()
        except (OSError, xmlrpc.client.Error):
            pass  # it ended meanwhile
        until = time.monotonic() + 2 * STOP_SECONDS
        while states(checkout, secrets) and time.monotonic() < until:
            time.sleep(0.3)
        left = wait_until_ended(lambda: processes(checkout), 10)
    else:
        send((process.pid for process in processes(checkout)), signal.SIGTERM)
        left = wait_until_ended(lambda: processes(checkout), 15)
    survivors = kill_all(lambda: processes(checkout))
    if survivors:
        pids = " ".join(str(process.pid) for process in survivors)
        raise StageFault(f"processes {pids} of the services survive SIGKILL: end them before `mmalign up`")
    return len(left)
