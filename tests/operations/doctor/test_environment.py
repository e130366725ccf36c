from __future__ import annotations

import platform
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.operations.doctor import environment
from components.operations.doctor.findings import ok
from tests.checkout import ROOT
from tests.operations.doctor.whole_checkout import only_tools, settings_changed


def test_unsupported_python_is_problem(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.python_version(Checkout(checkout)).state == "ok"
    monkeypatch.setattr(platform, "python_version", lambda: "3.10.4")
    finding = environment.python_version(Checkout(checkout))
    assert finding.state == "problem"
    assert "Python 3.10.4" in finding.text


def test_packages_that_differ_from_lock_file_are_problem(whole: Path) -> None:
    assert environment.packages(Checkout(whole)).state == "ok"
    lines = ["numpy==0.1", "pandas==0.2 ; python_version < '3'", "no-such-package==1.0", "# a comment"]
    (whole / "requirements.txt").write_text("\n".join(lines))
    finding = environment.packages(Checkout(whole))
    assert finding.state == "problem"
    assert "of 2 packages" in finding.text, "the one for another Python does not count"
    assert "1 missing (no-such-package)" in finding.text
    assert f"numpy {metadata.version('numpy')} (not ==0.1)" in finding.text
    (whole / "requirements.txt").unlink()
    assert environment.packages(Checkout(whole)).state == "warning"


def test_repository_lock_file_parses_completely() -> None:
    assert re.search(r"\b\d{3} packages", environment.packages(Checkout(ROOT)).text)


def test_version_that_breaks_runs_is_problem(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.version_pins(Checkout(checkout)).state == "ok"
    true_version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "2.1.3" if name == "sqlalchemy" else true_version(name))
    finding = environment.version_pins(Checkout(checkout))
    assert finding.state == "problem"
    assert "sqlalchemy 2.1.3 is not <2.1" in finding.text


def test_pins_and_python_match_pyproject() -> None:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {(one := Requirement(line)).name: set(one.specifier) for line in project["dependencies"]}
    for package, works, _ in environment.PINS:
        assert set(SpecifierSet(works)) <= declared[package]
    assert SpecifierSet(environment.PYTHON) == SpecifierSet(project["requires-python"])


def test_missing_compiler_is_problem_only_before_build(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "has_gpus", lambda: False)
    only_tools(tmp_path / "with", monkeypatch, "c++")
    assert environment.compiler(Checkout(whole)).state == "ok"
    only_tools(tmp_path / "without", monkeypatch)
    assert environment.compiler(Checkout(whole)).state == "warning"
    environment._op_file(Checkout(whole)).unlink()
    finding = environment.compiler(Checkout(whole))
    assert finding.state == "problem"
    assert "apt install g++" in str(finding.cure)
    settings_changed(whole, "training", engine="ddp")
    assert environment.compiler(Checkout(whole)).state == "warning"


def test_missing_ninja_is_problem_even_for_built_op(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_tools(tmp_path / "with", monkeypatch, "ninja")
    assert environment.ninja(Checkout(whole)).state == "ok"
    only_tools(tmp_path / "without", monkeypatch)
    assert environment.ninja(Checkout(whole)).state == "problem"
    settings_changed(whole, "training", engine="ddp")
    assert environment.ninja(Checkout(whole)).state == "ok"


def test_unbuilt_op_is_warning_without_gpu(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.cpu_op(Checkout(whole)).state == "ok"
    environment._op_file(Checkout(whole)).unlink()
    monkeypatch.setattr(environment, "has_gpus", lambda: False)
    assert environment.cpu_op(Checkout(whole)).state == "warning"
    monkeypatch.setattr(environment, "has_gpus", lambda: True)
    assert environment.cpu_op(Checkout(whole)).state == "ok"


def torch_prints(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(environment, "TORCH_QUESTIONS", code)


def test_torch_check_runs_in_child_process(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch_prints(monkeypatch, 'print(\'["2.15.0", "13.2", ["H100"]]\')')
    assert environment.torch_state(Checkout(whole)) == ok("torch 2.15.0, CUDA 13.2: H100")
    torch_prints(monkeypatch, "raise ImportError('libcudart.so.13: not found')")
    finding = environment.torch_state(Checkout(whole))
    assert finding.state == "problem"
    assert "libcudart.so.13: not found" in finding.text
    monkeypatch.setattr(environment, "TORCH_SECONDS", 0.3)
    torch_prints(monkeypatch, "import time; time.sleep(30)")
    assert "did not load within" in environment.torch_state(Checkout(whole)).text


def test_gpus_hidden_from_torch_are_a_problem(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch_prints(monkeypatch, "print('[\"2.15.0\", null, []]')")
    monkeypatch.setattr(environment, "has_gpus", lambda: True)
    assert "sees no GPU" in environment.torch_state(Checkout(whole)).text
    monkeypatch.setattr(environment, "has_gpus", lambda: False)
    assert environment.torch_state(Checkout(whole)).state == "ok"
