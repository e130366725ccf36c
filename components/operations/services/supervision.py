"""supervisor keeps the services: it starts them, starts them again when they end, and rotates their logs.

It is reached by a socket in the state folder. Every process below it carries the checkout's mark, so that what a killed supervisor leaves
behind is found and ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import xmlrpc.client
from pathlib import Path
from typing import Any

from components.config.services import ServicesSettings
from components.errors import StageFault
from components.files import write_atomic
from components.operations.services.programs import NAMES
from components.operations.services.state import Addresses, Secrets, state_folder
from components.processes.marks import MarkedProcess, checkout_mark, kill_all, marked, send, wait_until_gone

SERVICE_MARK = "MMALIGN_SERVICE"  # the checkout's mark, in supervisor and all that it starts
STOP_SECONDS = 60  # that a service has between its signal and SIGKILL: the worker ends its flows, and these their stages
SIGNALS = {"postgres": "INT"}  # PostgreSQL's quick and clean end; TERM waits for clients


def configuration(root: Path, addresses: Addresses, kept: Secrets, settings: ServicesSettings) -> str:
    """supervisord's configuration."""
    state = state_folder(root)
    logs = log_folder(root)
    lines = [
        "[unix_http_server]",
        f"file={socket_file(root)}",
        "chmod=0700",
        "username=mmalign",
        f"password={kept.supervisor}",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface",
        "[supervisord]",
        "nodaemon=true",
        f"logfile={logs / 'supervisord.log'}",
        f"logfile_maxbytes={settings.log_max_mb}MB",
        f"logfile_backups={settings.log_backups}",
        f"pidfile={state / 'supervisord.pid'}",
        f"directory={root}",
        "silent=true",
    ]
    names = [name for name in NAMES if name != "postgres" or not addresses.external_database]
    for priority, name in enumerate(names, start=1):
        lines += [
            f"[program:{name}]",
            f"command={sys.executable} -m components.operations.services.programs {name} {root}".replace("%", "%%"),
            f"priority={priority}",
            "autostart=true",
            "autorestart=true",
            "startsecs=3",
            "startretries=1000",
            f"stopsignal={SIGNALS.get(name, 'TERM')}",
            f"stopwaitsecs={STOP_SECONDS}",
            "redirect_stderr=true",
            f"stdout_logfile={logs / f'{name}.log'}",
            f"stdout_logfile_maxbytes={settings.log_max_mb}MB",
            f"stdout_logfile_backups={settings.log_backups}",
        ]
    return "\n".join(lines) + "\n"


def log_folder(root: Path) -> Path:
    """Where the services' logs lie."""
    return state_folder(root) / "logs"


def socket_file(root: Path) -> Path:
    """supervisor's socket. A socket's path has 107 bytes at most, so a deep checkout's lies in the runtime folder."""
    path = state_folder(root) / "supervisor.sock"
    if len(os.fsencode(path)) <= 100:
        return path
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/mmalign-{os.getuid()}")  # noqa: S108 -- its mode is checked below
    base.mkdir(mode=0o700, exist_ok=True)
    if base.stat().st_uid != os.getuid():
        raise StageFault(f"{base} belongs to somebody else, and {path} is too long for a socket: set XDG_RUNTIME_DIR")
    return base / f"{checkout_mark(root)}.sock"


def start(root: Path, addresses: Addresses, kept: Secrets, settings: ServicesSettings) -> subprocess.Popen[bytes]:
    """Start supervisor, in a session of its own, with all services."""
    log_folder(root).mkdir(parents=True, exist_ok=True)
    path = state_folder(root) / "supervisord.conf"
    before = os.umask(0o077)
    write_atomic(path, configuration(root, addresses, kept, settings))
    os.umask(before)
    code = str(Path(__file__).resolve().parents[3])
    python_path = os.pathsep.join(filter(None, [code, os.environ.get("PYTHONPATH")]))
    with (log_folder(root) / "supervisord.out").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(path)],
            cwd=root,
            env={**os.environ, SERVICE_MARK: checkout_mark(root), "PYTHONPATH": python_path},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def control(root: Path, kept: Secrets) -> Any:
    """supervisor's own interface. Its calls raise OSError where it does not run."""
    from supervisor.xmlrpc import SupervisorTransport

    transport = SupervisorTransport("mmalign", kept.supervisor, f"unix://{socket_file(root)}")
    return xmlrpc.client.ServerProxy("http://localhost", transport=transport).supervisor


def states(root: Path, kept: Secrets) -> dict[str, str]:
    """State of each service as supervisor knows it (RUNNING, STARTING, BACKOFF, FATAL ...); empty where supervisor does not run."""
    try:
        return {str(one["name"]): str(one["statename"]) for one in control(root, kept).getAllProcessInfo()}
    except (OSError, xmlrpc.client.Error):
        return {}


def processes(root: Path) -> list[MarkedProcess]:
    """All processes of this checkout's services, their flows and stages included."""
    return marked(SERVICE_MARK, checkout_mark(root))


def stop(root: Path, kept: Secrets | None) -> int:
    """End all services, flows first. Returns how many processes did not end when asked. Raises StageFault where some survive SIGKILL."""
    if kept is not None and states(root, kept):
        try:
            control(root, kept).shutdown()
        except (OSError, xmlrpc.client.Error):
            pass  # it ended meanwhile
        until = time.monotonic() + 2 * STOP_SECONDS
        while states(root, kept) and time.monotonic() < until:
            time.sleep(0.3)
        left = wait_until_gone(lambda: processes(root), 10)
    else:
        send((process.pid for process in processes(root)), signal.SIGTERM)
        left = wait_until_gone(lambda: processes(root), 15)
    survivors = kill_all(lambda: processes(root))
    if survivors:
        pids = " ".join(str(process.pid) for process in survivors)
        raise StageFault(f"processes {pids} of the services survive SIGKILL: end them before `mmalign up`")
    return len(left)
