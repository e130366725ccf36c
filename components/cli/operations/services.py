"""`mmalign up`, `mmalign down` and `mmalign migrate`: the services that a team needs on one machine."""

from __future__ import annotations

import json
import signal
import sys
from typing import Annotated

import typer

from components.checkout import Checkout
from components.operations.environment import enter_checkout
from components.processes.secrets import secrets_file


def up(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="return when all answer; `mmalign down` stops them")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print addresses as JSON")] = False,
) -> None:
    """Start PostgreSQL, Prefect's server, MLflow's server and a worker, and keep them running."""
    from components.config.settings import load_settings
    from components.operations.services.supervision import log_folder
    from components.operations.services.up import bring_down, bring_up

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a host's stop ends the services as Ctrl-C does
    checkout = enter_checkout()
    settings = load_settings().services
    running = bring_up(checkout, settings, lambda text: print(text, file=sys.stderr if as_json else sys.stdout, flush=True))
    where = {
        "prefect": running.addresses.prefect,
        "mlflow": running.addresses.mlflow,
        "passwords": str(secrets_file(checkout)),
        "logs": str(log_folder(checkout)),
    }
    if as_json:
        print(json.dumps(where, indent=2))
    else:
        print(f"Prefect    {where['prefect']}      (one shared string: mmalign:PASSWORD)")
        print(f"MLflow     {where['mlflow']}      (user admin)")
        print(f"passwords  {where['passwords']}      (commands in this checkout read them)")
        print(f"logs       {where['logs']}")
        print("stop       mmalign down" if detach or running.supervisor is None else "stop       Ctrl-C", flush=True)
    if detach or running.supervisor is None:
        return
    try:
        running.supervisor.wait()
    except KeyboardInterrupt:
        print("stopping", file=sys.stderr)
    finally:
        bring_down(checkout, _cancel_runs)


def down() -> None:
    """Stop the services of this checkout. Runs under way are cancelled; the record loses nothing."""
    from components.operations.services.up import bring_down

    killed = bring_down(enter_checkout(), _cancel_runs)
    print("all services are down" + (f"; {killed} processes had to be killed" if killed else ""))


def _cancel_runs(checkout: Checkout, seconds: float) -> None:
    from flows.flow_runs import cancel_all

    cancel_all(checkout, seconds)


def migrate() -> None:
    """Migrate the databases to the installed versions of Prefect and MLflow. Stop the services first; a backup is made."""
    from components.operations.services.migrate import migrate as migrate_record

    migrate_record(enter_checkout(), lambda text: print(text, flush=True))
