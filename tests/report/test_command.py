from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.namespaces import READ_ONLY, require

CALL = "import sys, typer; from components.cli.registry.report import report; app = typer.Typer(); app.command()(report); app(sys.argv[1:])"


def call(root: Path, *arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [*before, sys.executable, "-c", CALL, *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_report_command_renders_page(run: Path) -> None:
    (run / "dvc.yaml").write_text("stages: {}\n")
    (run / "artifacts/validate").mkdir(exist_ok=True)
    completed = call(run / "artifacts/validate", "--json")
    assert completed.returncode == 0, completed.stderr
    assert json.loads(completed.stdout) == {"report": "reports/report.html"}
    assert (run / "reports/report.html").is_file()


def test_report_of_read_only_checkout_lies_elsewhere(run: Path) -> None:
    (run / "dvc.yaml").write_text("stages: {}\n")
    (run / "reports/report.html").unlink(missing_ok=True)
    require(["unshare", "--mount", "sh", "-c", READ_ONLY, str(run)])
    completed = call(run, "--json", before=("unshare", "--mount", "sh", "-c", f'{READ_ONLY} && cd "$0" && exec "$@"', str(run)))
    assert completed.returncode == 0, completed.stderr
    page = Path(json.loads(completed.stdout)["report"])
    assert page.is_absolute()
    assert "</html>" in page.read_text()
    assert page.parent.stat().st_mode & 0o077 == 0, "other users must not read it, nor foresee its name"
    assert f"can't write to {run / 'reports'}" in completed.stderr
    shutil.rmtree(page.parent)


def test_report_help_imports_nothing_heavy() -> None:
    heavy = ("torch", "mlflow", "pandas", "jinja2", "pyarrow", "yaml")
    check = f"import sys; import components.cli.registry.report; print([name for name in {heavy} if name in sys.modules])"
    completed = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert completed.stdout.strip() == "[]"
