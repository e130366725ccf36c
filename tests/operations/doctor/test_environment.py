from __future__ import annotations

import platform
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from components.operations.doctor import environment
from components.operations.doctor.findings import ok
from tests.checkout import ROOT
from tests.operations.doctor.whole_checkout import only_tools, settings_changed


def test_python_that_is_not_supported_is_a_problem(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.python_version(checkout).state == "ok"
    monkeypatch.setattr(platform, "python_version", lambda: "3.10.4")
    finding = environment.python_version(checkout)
    assert finding.state == "problem"
    assert "Python 3.10.4" in finding.text


def test_packages_are_compared_with_the_lock_file(whole: Path) -> None:
    assert environment.packages(whole).state == "ok"
    lines = ["numpy==0.1", "pandas==0.2 ; python_version < '3'", "no-such-package==1.0", "# a comment"]
    (whole / "requirements.txt").write_text("\n".join(lines))
    finding = environment.packages(whole)
    assert finding.state == "problem"
    assert "of 2 packages" in finding.text, "the one for another Python does not count"
    assert "1 missing (no-such-package)" in finding.text
    assert f"numpy {metadata.version('numpy')} (not ==0.1)" in finding.text
    (whole / "requirements.txt").unlink()
    assert environment.packages(whole).state == "warning"


def test_every_line_of_the_repositorys_lock_file_is_understood() -> None:
    assert re.search(r"\b\d{3} packages", environment.packages(ROOT).text)


def test_a_version_that_is_known_to_break_a_run_is_a_problem(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.version_pins(checkout).state == "ok"
    true_version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "2.1.3" if name == "sqlalchemy" else true_version(name))
    finding = environment.version_pins(checkout)
    assert finding.state == "problem"
    assert "sqlalchemy 2.1.3 is not <2.1" in finding.text


def test_pins_and_python_are_those_of_the_package() -> None:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {(one := Requirement(line)).name: set(one.specifier) for line in project["dependencies"]}
    for package, works, _ in environment.PINS:
        assert set(SpecifierSet(works)) <= declared[package]
    assert SpecifierSet(environment.PYTHON) == SpecifierSet(project["requires-python"])


def test_a_missing_compiler_is_a_problem_only_while_something_has_to_be_built(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "has_gpus", lambda: False)
    only_tools(tmp_path / "with", monkeypatch, "c++")
    assert environment.compiler(whole).state == "ok"
    only_tools(tmp_path / "without", monkeypatch)
    assert environment.compiler(whole).state == "warning"
    environment._op_file(whole).unlink()
    finding = environment.compiler(whole)
    assert finding.state == "problem"
    assert "apt install g++" in str(finding.cure)
    settings_changed(whole, "training", engine="ddp")
    assert environment.compiler(whole).state == "warning"


def test_ninja_is_needed_for_deepspeed_even_where_the_op_is_built(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_tools(tmp_path / "with", monkeypatch, "ninja")
    assert environment.ninja(whole).state == "ok"
    only_tools(tmp_path / "without", monkeypatch)
    assert environment.ninja(whole).state == "problem"
    settings_changed(whole, "training", engine="ddp")
    assert environment.ninja(whole).state == "ok"


def test_an_op_that_is_not_built_is_a_warning_on_a_machine_without_a_gpu(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.cpu_op(whole).state == "ok"
    environment._op_file(whole).unlink()
    monkeypatch.setattr(environment, "has_gpus", lambda: False)
    assert environment.cpu_op(whole).state == "warning"
    monkeypatch.setattr(environment, "has_gpus", lambda: True)
    assert environment.cpu_op(whole).state == "ok"


def torch_prints(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(environment, "TORCH_QUESTIONS", code)


def test_torch_is_asked_in_a_process_of_its_own(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch_prints(monkeypatch, 'print(\'["2.15.0", "13.2", ["H100"]]\')')
    assert environment.torch_state(whole) == ok("torch 2.15.0, CUDA 13.2: H100")
    torch_prints(monkeypatch, "raise ImportError('libcudart.so.13: not found')")
    finding = environment.torch_state(whole)
    assert finding.state == "problem"
    assert "libcudart.so.13: not found" in finding.text
    monkeypatch.setattr(environment, "TORCH_SECONDS", 0.3)
    torch_prints(monkeypatch, "import time; time.sleep(30)")
    assert "did not load within" in environment.torch_state(whole).text


def test_gpus_that_torch_does_not_see_or_that_are_not_there_are_problems(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch_prints(monkeypatch, "print('[\"2.15.0\", null, []]')")
    monkeypatch.setattr(environment, "has_gpus", lambda: True)
    assert "sees no GPU" in environment.torch_state(whole).text
    monkeypatch.setattr(environment, "has_gpus", lambda: False)
    assert environment.torch_state(whole).state == "ok"
    settings_changed(whole, "stages", align={"deadline_minutes": 5, "gpus": 2})
    finding = environment.torch_state(whole)
    assert finding.state == "problem"
    assert "stages.align.gpus is 2" in finding.text
