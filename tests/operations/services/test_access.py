"""Access to the services. All tests share one `mmalign up` in the foreground, as a host's unit runs it."""

from __future__ import annotations

import base64
import http.client
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from components.checkout import Checkout
from components.operations.services.health import healthy
from components.operations.services.state import read_addresses
from components.processes.marks import SERVICE_MARK, checkout_mark, marked
from components.processes.secrets import read_secrets, secrets_file
from tests.checkout import ROOT, clean_environment, make_checkout, mmalign, wait_for
from tests.settings import copy_settings

PORTS = {"prefect": "prefect_port", "mlflow": "mlflow_port"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkout whose services run in the foreground; SIGTERM ends them all."""
    folder = make_checkout(tmp_path_factory.mktemp("access") / "checkout")
    with (folder / "up.out").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "components.cli.main", "up"],
            cwd=folder,
            env={**clean_environment(), "PYTHONPATH": str(ROOT)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: "Ctrl-C" in (folder / "up.out").read_text() or process.poll() is not None, 600)
        assert process.poll() is None, (folder / "up.out").read_text()
        yield folder
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(180)
        left = marked(SERVICE_MARK, checkout_mark(Checkout(folder)))
        if left:
            mmalign(folder, "down")
    assert left == [], "the stop of a host's unit leaves no process"


def request(
    root: Path,
    service: str,
    method: str,
    path: str,
    *,
    body: Any = None,
    who: tuple[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, str, dict[str, str]]:
    """Status, text and headers of a reply. The path is sent unchanged: nothing resolves `..` on the way."""
    addresses = read_addresses(Checkout(root))
    assert addresses is not None
    connection = http.client.HTTPConnection("127.0.0.1", getattr(addresses, PORTS[service]), timeout=60)
    sent_headers = {"content-type": "application/json", **(headers or {})}
    if who is not None:
        sent_headers["authorization"] = f"Basic {base64.b64encode(':'.join(who).encode()).decode()}"
    try:
        connection.putrequest(method, path, skip_host="Host" in sent_headers, skip_accept_encoding=True)
        data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
        for name, value in {**sent_headers, "content-length": str(len(data))}.items():
            connection.putheader(name, value)
        connection.endheaders(data)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace"), {name.lower(): value for name, value in answer.getheaders()}
    finally:
        connection.close()


def admin(root: Path) -> tuple[str, str]:
    secrets = read_secrets(Checkout(root))
    return secrets.mlflow_user, secrets.mlflow_password


ANONYMOUS = [
    ("prefect", "POST", "/api/flows/filter"),
    ("prefect", "POST", "/api/flow_runs/filter"),
    ("prefect", "POST", "/api/logs/filter"),
    ("prefect", "POST", "/api/deployments/filter"),
    ("prefect", "GET", "/api/admin/settings"),
    ("prefect", "POST", "/api/work_pools/"),
    ("mlflow", "POST", "/api/2.0/mlflow/experiments/search"),
    ("mlflow", "POST", "/ajax-api/2.0/mlflow/runs/search"),
    ("mlflow", "GET", "/api/2.0/mlflow/registered-models/search"),
    ("mlflow", "GET", "/api/2.0/mlflow-artifacts/artifacts?path=1"),
    ("mlflow", "GET", "/api/2.0/mlflow-artifacts/artifacts/1/x"),
    ("mlflow", "PUT", "/api/2.0/mlflow-artifacts/artifacts/1/x"),
    ("mlflow", "DELETE", "/api/2.0/mlflow-artifacts/artifacts/1/x"),
    ("mlflow", "GET", "/get-artifact?path=x&run_uuid=1"),
    ("mlflow", "GET", "/model-versions/get-artifact?path=x&name=mm-policy&version=1"),
    ("mlflow", "POST", "/graphql"),
    ("mlflow", "GET", "/api/2.0/mlflow/traces?experiment_ids=1"),
    ("mlflow", "POST", "/api/2.0/mlflow/users/create"),
]


@pytest.mark.slow
def test_missing_or_wrong_password_gets_401_from_both_servers(root: Path) -> None:
    for service, method, path in ANONYMOUS:
        body = {} if method == "POST" else None
        assert request(root, service, method, path, body=body)[0] == 401, path
        assert request(root, service, method, path, body=body, who=("admin", "password1234"))[0] == 401, path
    assert request(root, "mlflow", "POST", "/api/2.0/mlflow/experiments/search", body={"max_results": 5}, who=admin(root))[0] == 200
    assert request(root, "prefect", "POST", "/api/flows/filter", body={}, who=("mmalign", read_secrets(Checkout(root)).prefect))[0] == 200


@pytest.mark.slow
def test_user_without_grants_gets_403_everywhere(root: Path) -> None:
    made = request(root, "mlflow", "POST", "/api/2.0/mlflow/experiments/create", body={"name": "ours"}, who=admin(root))
    experiment = json.loads(made[1])["experiment_id"]
    created = request(root, "mlflow", "POST", "/api/2.0/mlflow/runs/create", body={"experiment_id": experiment}, who=admin(root))
    run = json.loads(created[1])["run"]["info"]["run_id"]
    request(root, "mlflow", "POST", "/api/2.0/mlflow/registered-models/create", body={"name": "mm-policy"}, who=admin(root))
    artifact = f"/api/2.0/mlflow-artifacts/artifacts/{experiment}/{run}/artifacts/note.txt"
    assert request(root, "mlflow", "PUT", artifact, body=b"kept", who=admin(root))[0] == 200
    assert request(root, "mlflow", "GET", artifact, who=admin(root))[1] == "kept"
    guest = {"username": "guest", "password": "guest-password-1"}
    assert request(root, "mlflow", "POST", "/api/2.0/mlflow/users/create", body=guest, who=admin(root))[0] == 200
    who = ("guest", "guest-password-1")
    for method, path, body in (
        ("GET", f"/api/2.0/mlflow/experiments/get?experiment_id={experiment}", None),
        ("GET", f"/api/2.0/mlflow/runs/get?run_id={run}", None),
        ("POST", "/api/2.0/mlflow/runs/log-metric", {"run_id": run, "key": "x", "value": 1, "timestamp": 1}),
        ("POST", "/api/2.0/mlflow/experiments/delete", {"experiment_id": experiment}),
        ("GET", "/api/2.0/mlflow/registered-models/get?name=mm-policy", None),
        ("GET", f"/api/2.0/mlflow/artifacts/list?run_id={run}", None),
        ("GET", f"/get-artifact?path=note.txt&run_uuid={run}", None),
        ("GET", artifact, None),
        ("PUT", artifact, b"overwritten"),
        ("DELETE", artifact, None),
        ("POST", "/api/2.0/mlflow/users/update-admin", {"username": "guest", "is_admin": True}),
    ):
        assert request(root, "mlflow", method, path, body=body, who=who)[0] == 403, path
    assert request(root, "mlflow", "GET", artifact, who=admin(root))[1] == "kept"


TRAVERSALS = [
    "../.mmalign/services/secrets.json",
    "1/../../.mmalign/services/secrets.json",
    "%2e%2e/.mmalign/services/secrets.json",
    "..%2f.mmalign%2fservices%2fsecrets.json",
    "%252e%252e/.mmalign/services/secrets.json",
    "..%5c.mmalign%5cservices%5csecrets.json",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "file:///etc/passwd",
    "file:%2f%2f%2fetc%2fpasswd",
]


@pytest.mark.slow
def test_artifact_path_traversal_is_refused(root: Path) -> None:
    secret = read_secrets(Checkout(root)).prefect
    before, content = outside(root), secrets_file(Checkout(root)).read_bytes()
    for path in TRAVERSALS:
        for method in ("GET", "PUT", "DELETE"):
            address = f"/api/2.0/mlflow-artifacts/artifacts/{path}"
            code, text, headers = request(root, "mlflow", method, address, body=b"x" if method == "PUT" else None, who=admin(root))
            if code == 308:  # a double slash: a redirect to the same path inside, with one slash
                assert headers["location"].endswith("/api/2.0/mlflow-artifacts/artifacts/etc/passwd"), headers
                continue
            # A backslash is a letter of a name here, so such a file may be written: inside.
            assert 400 <= code < 500 or "%5c" in path, (method, path, code)
            assert secret not in text
            assert "root:" not in text
        code, text, _ = request(root, "mlflow", "GET", f"/api/2.0/mlflow-artifacts/artifacts?path={path}", who=admin(root))
        assert "secrets.json" not in text or code >= 400 or "%5c" in path, path
    assert secrets_file(Checkout(root)).read_bytes() == content
    assert outside(root) == before


def outside(root: Path) -> set[Path]:
    """All files but the artifacts, the database's files and logs."""
    written = (root / "mlruns", root / ".mmalign/services/postgres", root / ".mmalign/services/logs")
    return {path for path in root.rglob("*") if not any(path.is_relative_to(folder) for folder in written)}


@pytest.mark.slow
def test_foreign_page_can_call_neither_server(root: Path) -> None:
    prefect = ("mmalign", read_secrets(Checkout(root)).prefect)
    ports = read_addresses(Checkout(root))
    assert ports is not None
    for service, path, who in (("mlflow", "/api/2.0/mlflow/experiments/search", admin(root)), ("prefect", "/api/flows/filter", prefect)):
        for method in ("POST", "OPTIONS", "GET"):
            for origin in ("http://evil.example", "http://127.0.0.1:9", "null"):
                sent = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
                code, _, headers = request(root, service, method, path, body={"max_results": 5}, who=who, headers=sent)
                assert code == 403, (service, method, origin)
                assert not [name for name in headers if name.startswith("access-control")]
        for host in ("evil.example", "127.0.0.1.evil.example"):
            assert request(root, service, "POST", path, body={"max_results": 5}, who=who, headers={"Host": host})[0] == 400, service
        own = {"Origin": f"http://127.0.0.1:{getattr(ports, PORTS[service])}"}
        assert request(root, service, "POST", path, body={"max_results": 5} if service == "mlflow" else {}, who=who, headers=own)[0] == 200


@pytest.mark.slow
def test_user_without_grants_chooses_no_location(root: Path) -> None:
    guest = {"username": "visitor", "password": "visitor-password-1"}
    assert request(root, "mlflow", "POST", "/api/2.0/mlflow/users/create", body=guest, who=admin(root))[0] == 200
    who = ("visitor", "visitor-password-1")
    for prefix in ("/api/2.0/mlflow", "/ajax-api/2.0/mlflow"):
        for location in (
            {"artifact_location": "file:///etc"},
            {"artifactLocation": "file:///etc"},
            {"artifact_location": "s3://elsewhere"},
        ):
            body = {"name": f"theirs {prefix}", **location}
            assert request(root, "mlflow", "POST", f"{prefix}/experiments/create", body=body, who=who)[0] == 403, location
            twice = json.dumps(json.dumps(body)).encode()
            assert request(root, "mlflow", "POST", f"{prefix}/experiments/create", body=twice, who=who)[0] == 403, location
        assert request(root, "mlflow", "GET", f"{prefix}/users/list", who=who)[0] == 403
        assert request(root, "mlflow", "GET", f"{prefix}/users/get?username=admin", who=who)[0] == 403
        assert "visitor" in request(root, "mlflow", "GET", f"{prefix}/users/list", who=admin(root))[1]
    made = request(root, "mlflow", "POST", "/api/2.0/mlflow/experiments/create", body={"name": "theirs"}, who=who)
    assert made[0] == 200
    placed = {"name": "placed", "artifact_location": "mlflow-artifacts:/placed"}
    assert request(root, "mlflow", "POST", "/api/2.0/mlflow/experiments/create", body=placed, who=admin(root))[0] == 200


@pytest.mark.slow
def test_services_listen_on_loopback_only(root: Path) -> None:
    listening = [
        connection.laddr.ip
        for process in marked(SERVICE_MARK, checkout_mark(Checkout(root)))
        for connection in psutil.Process(process.pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 3
    assert set(listening) == {"127.0.0.1"}
    assert all(healthy(Checkout(root)).values())


@pytest.mark.slow
def test_doctor_and_logs_show_running_services(root: Path) -> None:
    checks = {check["name"]: check for check in json.loads(mmalign(root, "doctor", "--json").stdout)["checks"]}
    for name in ("services", "passwords", "ports", "mlflow", "prefect"):
        assert checks[name]["state"] == "ok", checks[name]
    assert checks["deployments"]["cure"] == "mmalign deploy"
    assert "Uvicorn" in mmalign(root, "logs", "--service", "mlflow").stdout + mmalign(root, "logs", "--service", "prefect").stdout


def test_public_host_without_passwords_starts_no_service(tmp_path: Path) -> None:
    from components.operations.services.state import create_secrets

    folder = tmp_path / "checkout"
    folder.mkdir()
    shutil.copyfile(ROOT / "dvc.yaml", folder / "dvc.yaml")
    copy_settings(folder)
    (folder / "ops.yaml").write_text((ROOT / "ops.yaml").read_text().replace("host: 127.0.0.1", "host: 0.0.0.0"))
    create_secrets(Checkout(folder))
    passwords = json.loads(secrets_file(Checkout(folder)).read_text())
    for weak in ({"prefect": ""}, {"mlflow_password": "password"}):
        secrets_file(Checkout(folder)).write_text(json.dumps({**passwords, **weak}))
        refused = mmalign(folder, "up", "--detach")
        assert refused.returncode == 2, refused.stderr
        assert f"no password of 12 characters for {next(iter(weak))}" in refused.stderr
        assert marked(SERVICE_MARK, checkout_mark(Checkout(folder))) == []
