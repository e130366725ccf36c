"""Prefect's server of a run: who may ask it what. Every route is asked without its password."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from components.checkout import Checkout
from components.operations.services.door import HOSTS, ROUTES_OPEN, foreign
from components.operations.services.programs import _prefect
from components.operations.services.state import Addresses, create_secrets
from flows.server import own_server_of
from tests.checkout import ROOT
from tests.flows.conftest import RunServer

PARAMETER = re.compile(r"\{[^}]+\}")
SOME_ID = "00000000-0000-4000-8000-000000000000"


def ask(
    server: RunServer, method: str, path: str, headers: dict[str, str] | None = None, body: str = "{}"
) -> tuple[int, str, dict[str, str]]:
    """Status, text and headers of the reply; `headers` may name a Host."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    sent = {"content-type": "application/json", **(headers or {})}
    connection.request(method, path, body=None if method == "GET" else body, headers=sent)
    answer = connection.getresponse()
    text = answer.read().decode(errors="replace")
    connection.close()
    return answer.status, text, {name.lower(): value for name, value in answer.getheaders()}


def password(server: RunServer, auth: str | None = None) -> dict[str, str]:
    return {"authorization": f"Basic {base64.b64encode((auth or server.auth).encode()).decode()}"}


def routes(server: RunServer) -> list[tuple[str, str]]:
    """Method and path of every route that the server describes."""
    status, text, _ = ask(server, "GET", "/openapi.json", password(server))
    assert status == 200
    return [(method.upper(), PARAMETER.sub(SOME_ID, path)) for path, item in json.loads(text)["paths"].items() for method in item]


def test_every_route_without_password_is_refused(run_server: RunServer) -> None:
    every = [(method, path if path.startswith("/api") else f"/api{path}") for method, path in routes(run_server)]
    assert len(every) > 150
    open_routes = {path for method, path in every if method == "GET" and any(re.fullmatch(one, path) for one in ROUTES_OPEN)}
    assert open_routes == {"/api/health", "/api/ready"}
    statuses = {(method, path): ask(run_server, method, path)[0] for method, path in every}
    reached = {route: status for route, status in statuses.items() if status not in {401, 403}}
    assert reached == dict.fromkeys([("GET", path) for path in sorted(open_routes)], 200)
    assert ask(run_server, "POST", "/api/flows/filter", password(run_server, "mmalign:password1234"))[0] == 401
    for path in ("/docs", "/redoc", "/openapi.json", "/api/openapi.json", "/api/docs", "/api/metrics"):
        assert ask(run_server, "GET", path)[0] == 401, path
    for method in ("HEAD", "OPTIONS", "POST"):
        assert ask(run_server, method, "/api/health")[0] == 401, method


def test_open_routes_say_nothing_about_runs(run_server: RunServer) -> None:
    assert [ask(run_server, "GET", path)[1] for path in ("/api/health", "/api/ready")] == ["true", '{"message":"OK"}']
    status, text, _ = ask(run_server, "GET", "/ui-settings")
    assert status == 200
    assert json.loads(text)["auth"] == "BASIC"
    assert run_server.auth not in text


def test_password_opens_the_server(run_server: RunServer) -> None:
    assert ask(run_server, "POST", "/api/flows/filter", password(run_server))[:2] == (200, "[]")


def test_foreign_host_gets_400(run_server: RunServer) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", f"evil.example:{run_server.port}", ""):
        for path in ("/api/health", "/api/flows/filter", "/"):
            assert ask(run_server, "GET", path, {"Host": host, **password(run_server)})[0] == 400, host
    assert ask(run_server, "GET", "/api/health", {"Host": f"localhost:{run_server.port}"})[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:9", "http://localhost", "null", "http://[", ""])
def test_foreign_origin_gets_403_without_cors(run_server: RunServer, origin: str) -> None:
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    for method, more in (("POST", {}), ("OPTIONS", preflight), ("GET", {})):
        status, _, headers = ask(run_server, method, "/api/flows/filter", {"Origin": origin, **more, **password(run_server)})
        assert status == 403, method
        assert not [name for name in headers if name.startswith("access-control")]
    own = {"Origin": f"http://127.0.0.1:{run_server.port}", **password(run_server)}
    assert ask(run_server, "POST", "/api/flows/filter", own)[0] == 200


def test_origin_counts_with_its_port() -> None:
    assert not foreign(None, "127.0.0.1:4200")
    assert not foreign("https://gpu7.example.org", "gpu7.example.org")
    assert foreign("http://127.0.0.1:4201", "127.0.0.1:4200")


@pytest.mark.parametrize("path", ["/api/events/out", "/api/events/in", "/api/logs/out", "/api/task_runs/subscriptions/scheduled"])
def test_socket_without_password_is_closed(run_server: RunServer, path: str) -> None:
    def talk(token: str | None, **options: Any) -> None:
        address = f"ws://127.0.0.1:{run_server.port}{path}"
        with connect(address, subprotocols=["prefect"], **options) as socket:  # type: ignore[list-item]
            socket.send(json.dumps({"type": "auth", "token": token}))
            while True:
                socket.recv(timeout=20)

    for token in (None, "", "password1234"):
        with pytest.raises(ConnectionClosed):
            talk(token)
    with pytest.raises(InvalidStatus):
        talk(run_server.auth, origin="http://evil.example")  # type: ignore[arg-type]


def test_password_of_run_is_private(run_server: RunServer) -> None:
    ours = psutil.Process().children(recursive=True)
    lines = [" ".join(process.cmdline()) for process in ours]
    assert any("flows.server" in line for line in lines)
    secret = run_server.auth.partition(":")[2]
    assert not [line for line in lines if secret in line]
    assert secret not in run_server.log.read_text()
    assert run_server.home.stat().st_mode & 0o777 == 0o700
    assert own_server_of(Checkout(run_server.home), 1).auth != own_server_of(Checkout(run_server.home), 1).auth


def test_services_and_runs_share_one_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from components.operations.services import postgres

    monkeypatch.setattr(postgres, "answers", lambda *_: True)
    monkeypatch.setattr(postgres, "make_databases", lambda *_: None)
    secrets = create_secrets(Checkout(tmp_path))
    addresses = Addresses("0.0.0.0", 4200, 5000, 5432, allowed_hosts=["gpu7.example.org"])  # noqa: S104 -- no server binds to it here
    command, service = _prefect(Checkout(tmp_path), addresses, secrets)
    own = own_server_of(Checkout(tmp_path), 4300).server_environment()
    assert service.keys() == own.keys()
    assert service["PREFECT_SERVER_API_AUTH_STRING"] == secrets.prefect_auth
    assert service[HOSTS].split(",") == ["127.0.0.1", "localhost", os.uname().nodename, "gpu7.example.org"]
    assert own[HOSTS] == "127.0.0.1,localhost"
    assert command[-2:] == ["0.0.0.0", "4200"]  # noqa: S104
    assert secrets.prefect not in " ".join(command)


def test_environment_of_a_person_opens_no_server(tmp_path: Path) -> None:
    own = own_server_of(Checkout(tmp_path), 4300).server_environment()
    loose = {"PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "*", "PREFECT_SERVER_API_AUTH_STRING": "", HOSTS: "*"}
    code = "from prefect.settings import get_current_settings as s; a = s().server.api; print(a.cors_allowed_origins, a.auth_string.get_secret_value())"
    seen = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **loose, **own}, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert seen == ["http://127.0.0.1:4300", own["PREFECT_SERVER_API_AUTH_STRING"]]
