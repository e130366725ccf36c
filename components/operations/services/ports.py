"""The ports of the services: who listens on them.

`mmalign up` asks before it starts anything, and once more when all services answer: a program that takes a port in between could answer in a
service's place, and would get this checkout's passwords.
"""

from __future__ import annotations

import socket

from components.errors import StageFault, UserError
from components.operations.services.state import Addresses


def require_free_ports(addresses: Addresses) -> None:
    """Raises UserError for the first port of a service on which another program listens."""
    ports = [("prefect", addresses.host, addresses.prefect_port), ("mlflow", addresses.host, addresses.mlflow_port)]
    if not addresses.external_database:
        ports.append(("postgres", "127.0.0.1", addresses.postgres_port))
    for name, host, port in ports:
        if not is_free(host, port):
            raise UserError(f"{taken(name, port)}: {cure(name)}")


def require_own_ports(addresses: Addresses, own: set[int]) -> None:
    """Raises StageFault where a process that is not in `own` listens on a server's port."""
    for name, port in (("prefect", addresses.prefect_port), ("mlflow", addresses.mlflow_port)):
        if not own & listeners(port):
            raise StageFault(f"{taken(name, port)}, which answers in its place: {cure(name)}")


def taken(name: str, port: int) -> str:
    """That a port is taken, and by whom, as far as this user may know."""
    import psutil

    pids = sorted(listeners(port))
    try:
        holder = f"process {pids[0]} ({' '.join(psutil.Process(pids[0]).cmdline())[:80]})" if pids else "another user's process"
    except psutil.Error:
        holder = f"process {pids[0]}"
    return f"port {port} of {name} is taken by {holder}"


def cure(name: str) -> str:
    """What to do about a taken port."""
    return f"end that process, or set services.{name}_port in ops.yaml to another port"


def listeners(port: int) -> set[int]:
    """The processes that listen on a port, as far as this user may know."""
    import psutil

    connections = psutil.net_connections("tcp")
    return {one.pid for one in connections if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port and one.pid}


def is_free(host: str, port: int) -> bool:
    """Whether no process listens on a port."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return True
    except OSError:
        return False
