"""No secret reaches the record, whichever text it stands in, and no file that git does not know but code."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.tracking.recorder import Recorder
from components.tracking.runs import attach_file, close_parent, open_parent, record_summary
from components.tracking.store import connect

SECRET = "s3cr3t-of-the-team"  # noqa: S105 -- no password of anything


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TEAM_TOKEN", SECRET)
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Somebody")
    monkeypatch.setenv("HOME", str(tmp_path))


def everything(checkout: Path) -> str:
    """All tags, parameters and artifacts of all runs."""
    client, experiment = connect(Checkout(checkout))
    runs = client.search_runs([experiment])
    artifacts = (path for run in runs for path in Path(run.info.artifact_uri.removeprefix("file://")).rglob("*") if path.is_file())
    return "".join([*(repr(run.data) for run in runs), *(f"{path.name}: {path.read_text(errors='replace')}\n" for path in artifacts)])


def test_untracked_files_are_recorded_by_name_and_code_whole(checkout: Path) -> None:
    (checkout / "probe.py").write_text(f'TOKEN = "{SECRET}"  # by Somebody\n')
    (checkout / "notes with space.txt").write_text("the key of the safe is 1234\n")
    (checkout / "evil\x1b]0;.txt").write_text("x\n")
    (checkout / "params.yaml").write_text((checkout / "params.yaml").read_text() + f"# {SECRET}\n")
    run = open_parent(Checkout(checkout), "mmalign run")
    client, _ = connect(Checkout(checkout))
    text = {name: Path(client.download_artifacts(run, name)).read_text() for name in ("git.diff", "untracked.txt", "params.yaml")}
    assert '+TOKEN = "***"  # by Somebody' in text["git.diff"]
    assert "+# ***" in text["git.diff"]
    assert "safe" not in text["git.diff"]
    assert {"notes with space.txt", "evil\\x1b]0;.txt", "probe.py"} <= set(text["untracked.txt"].splitlines())
    assert text["params.yaml"].endswith("# ***\n")
    assert SECRET not in everything(checkout)
    assert (checkout / "params.yaml").read_text().endswith(f"# {SECRET}\n")


def test_every_kind_of_text_is_cleaned(checkout: Path) -> None:
    run = open_parent(Checkout(checkout), "mmalign run")
    folder = checkout / "pages"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/report.html").write_text(f"<p>https://me:{SECRET}@host/x and {SECRET}</p>")
    (folder / "deep/same.txt").write_text("nothing here")
    picture = b"\x89PNG\0" + SECRET.encode()
    (folder / "picture.png").write_bytes(picture)
    (folder / "latin.txt").write_bytes(b"caf\xe9 " + SECRET.encode())
    (checkout / "summary.json").write_text(f'{{"sentence": "{SECRET}", "rows": 2}}')
    recorder = Recorder.attach(Checkout(checkout), run)
    recorder.artifact(folder)
    recorder.text("failure.txt", f"Traceback: {SECRET}")
    recorder.tags({"note": SECRET})
    recorder.params({"endpoint.url": f"http://me:{SECRET}@host"})
    attach_file(Checkout(checkout), run, folder / "latin.txt", "logs")
    record_summary(Checkout(checkout), run, checkout / "summary.json")
    close_parent(Checkout(checkout), run, "FINISHED")
    client, _ = connect(Checkout(checkout))
    assert Path(client.download_artifacts(run, "pages/picture.png")).read_bytes() == picture  # no text
    assert Path(client.download_artifacts(run, "pages/latin.txt")).read_bytes() == b"caf\xe9 ***"
    assert Path(client.download_artifacts(run, "pages/deep/same.txt")).read_text() == "nothing here"
    assert "rows" in client.get_run(run).data.metrics
    assert everything(checkout).replace(picture.decode(errors="replace"), "").count(SECRET) == 0
    assert (folder / "deep/report.html").read_text().count(SECRET) == 2


def test_secret_waits_for_no_store_on_disk(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    run = open_parent(Checkout(checkout), "mmalign run")
    Recorder.attach(Checkout(checkout), run).text("note.txt", SECRET)
    waiting = [path for path in (checkout / ".mmalign/tracking").rglob("*") if path.is_file()]
    assert waiting
    assert not [path for path in waiting if SECRET in path.read_text(errors="replace")]


@pytest.mark.parametrize(
    "name",
    [".env", ".env.local", "deploy.pem", "server.key", "id_ed25519", "credentials.json", ".aws/credentials", "secrets.json", ".netrc"],
)
def test_git_ignores_files_of_keys(name: str) -> None:
    root = Path(__file__).parents[2]
    assert subprocess.run(["git", "check-ignore", "-q", name], cwd=root, check=False).returncode == 0
