"""MLflow's server behind our door, with limits for users without grants: `python -m components.operations.services.mlflow_server ARGUMENTS`.

The arguments are those of `mlflow server`. MLflow 3.17 lets every user choose the location of an experiment's artifacts, where the server
then writes with its own rights, and lets every user list the others. Here only an administrator may.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING
from unittest.mock import patch

from components.operations.services.door import HOSTS, Door
from components.stages import module

if TYPE_CHECKING:
    from flask import Response


def application() -> Door:
    """The server, as uvicorn loads it."""
    from mlflow.server import app
    from mlflow.server.auth import create_app

    served = create_app()
    app.before_request(limit_users)  # after MLflow's own check, which names the user
    return Door(served, os.environ[HOSTS].split(","))


def limit_users() -> Response | None:
    """MLflow's refusal where a user who is no administrator lists users or chooses a location; None passes the request on."""
    from flask import request
    from mlflow.protos.service_pb2 import CreateExperiment
    from mlflow.server.auth import make_forbidden_response, sender_is_admin
    from mlflow.server.handlers import _get_request_message, catch_mlflow_exception

    def limited() -> Response | None:
        listing = request.path.endswith("/mlflow/users/list")
        creating = request.path.endswith("/mlflow/experiments/create")
        chosen = listing or (creating and _get_request_message(CreateExperiment()).artifact_location)
        return make_forbidden_response() if chosen and not sender_is_admin() else None

    answer: Response | None = catch_mlflow_exception(limited)()
    return answer


def main(arguments: list[str]) -> None:
    """Run `mlflow server` with our application in place of its own."""
    import mlflow.server
    from mlflow.cli import cli

    with patch.object(mlflow.server, "_find_app", lambda _: f"{module('mlflow_server')}:application"):
        cli(["server", *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
