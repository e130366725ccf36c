from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from components import closures, stages
from components.checkout import Checkout
from components.closures import closure, code_digest, digests, write_digests
from components.errors import UserError
from components.stages import OUTSIDE, SECTIONS, STAGE_NAMES, STAGES, Stage, StageName
from tests.checkout import ROOT

Write = Callable[[str, str], None]
TREE = {
    "components/__init__.py": "",
    "components/a/__init__.py": "",
    "components/a/stage.py": "from components.b import inner, name\nfrom components.tracking import runs\n",
    "components/b/__init__.py": "name = 1\n",
    "components/b/inner.py": "def f():\n    import components.c.late\n",
    "components/b/name.py": "from components.b import unrelated\n",
    "components/b/unrelated.py": "",
    "components/c/__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from components.b import unrelated\n",
    "components/c/late.py": "",
    "components/tracking/__init__.py": "",
    "components/tracking/runs.py": "from components.b import unrelated\n",
    "components/task.py": "from components.c import late\n",
    "components/worker.py": "",
    "components/section.py": "",
}


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small tree whose stage `validate` is in components/a, and whose other stages have components/task.py alone."""
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    table = {name: Stage("components.task:run", ()) for name in STAGE_NAMES}
    table |= {"validate": Stage("components.a.stage:run", ("model",))}
    monkeypatch.setattr(stages, "STAGES", table)
    monkeypatch.setattr(stages, "SECTIONS", {"model": "components.section:Model"})
    return tmp_path


def reached(stage: StageName, root: Path) -> set[str]:
    return {path.as_posix() for path in closure(stage, root)}


def test_closure_follows_imports_and_packages_and_sections(code: Path) -> None:
    assert reached("validate", code) == {
        "components/__init__.py",
        "components/a/__init__.py",
        "components/a/stage.py",
        "components/b/__init__.py",  # which binds `name` itself, so that components/b/name.py is not imported
        "components/b/inner.py",
        "components/c/__init__.py",
        "components/c/late.py",
        "components/section.py",
    }


def test_stage_with_tasks_reaches_their_processes(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "TRAINING", {"learn": "components.task:build"})
    monkeypatch.setattr(stages, "PROCESSES", {"worker": "components.worker"})
    monkeypatch.setitem(stages.STAGES, "validate", Stage("components.section:run", (), ("learn",)))
    assert reached("validate", code) == {
        "components/__init__.py",
        "components/section.py",
        "components/task.py",
        "components/worker.py",
        "components/c/__init__.py",
        "components/c/late.py",
    }


def test_digest_follows_files_of_the_closure_alone(code: Path) -> None:
    before = digests(code)
    (code / "components/b/unrelated.py").write_text("x = 1\n")
    (code / "components/tracking/runs.py").write_text("x = 1\n")
    assert digests(code) == before
    (code / "components/b/inner.py").write_text("def f():\n    import components.c.late\n    return 1\n")
    after = digests(code)
    assert [stage for stage in STAGE_NAMES if after[stage] != before[stage]] == ["validate"]
    (code / "components/c/late.py").write_text("x = 1\n")
    assert all(digests(code)[stage] != after[stage] for stage in STAGE_NAMES)


def test_digest_follows_its_own_row_of_the_table(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digests(code)
    monkeypatch.setitem(stages.STAGES, "validate", Stage("components.a.stage:walk", ("model",)))
    after = digests(code)
    assert [stage for stage in STAGE_NAMES if after[stage] != before[stage]] == ["validate"]


def test_edit_that_keeps_size_and_time_is_seen(code: Path) -> None:
    """The cache goes by the bytes of a file, never by its times."""
    path = code / "components/task.py"
    path.write_text("from components.c import late\nx = 1\n")
    digests(code)
    moment, first = path.stat().st_mtime_ns, digests(code)
    path.write_text("from components.c import late\nx = 2\n")
    import os

    os.utime(path, ns=(moment, moment))
    assert digests(code)["reward"] != first["reward"]


@pytest.mark.parametrize("text", ["", "{}", '{"reader": "another", "meanings": {}}', "no JSON"])
def test_damaged_cache_is_ignored(code: Path, text: str) -> None:
    first = digests(code)
    (code / closures.CACHE).write_text(text)
    assert digests(code) == first


def test_broken_code_is_named_in_a_sentence(code: Path) -> None:
    (code / "components/b/inner.py").write_text("def f(:\n")
    with pytest.raises(UserError, match=r"components/b/inner\.py:1 is no valid Python"):
        digests(code)
    (code / "components/b/inner.py").write_text("import components.d\n")
    with pytest.raises(UserError, match=r"components/b/inner\.py imports components\.d, which does not exist"):
        digests(code)


def test_written_digests_are_left_alone_when_right(tmp_path: Path) -> None:
    write_digests(Checkout(tmp_path))
    path = tmp_path / "artifacts/code/reward.txt"
    assert path.read_text() == f"{code_digest('reward')}\n"
    assert {one.name for one in path.parent.iterdir()} == {f"{stage}.txt" for stage in STAGE_NAMES}
    moment = path.stat().st_mtime_ns
    write_digests(Checkout(tmp_path))
    assert path.stat().st_mtime_ns == moment
    path.write_text("of other code\n")
    write_digests(Checkout(tmp_path), ["align"])
    assert path.read_text() == "of other code\n"
    write_digests(Checkout(tmp_path), ["reward"])
    assert path.read_text() == f"{code_digest('reward')}\n"


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_real_closure_holds_its_sections_and_no_upper_storey(stage: StageName) -> None:
    files = reached(stage, ROOT)
    sections = {SECTIONS[name].partition(":")[0].replace(".", "/") + ".py" for name in SECTIONS if name in STAGES[stage].sections}
    others = {SECTIONS[name].partition(":")[0].replace(".", "/") + ".py" for name in SECTIONS} - sections
    assert sections <= files
    assert not others & files
    outside = ("cli", "operations", "report", "registry", "rehearsal", "tracking", "storage", "processes")
    assert not [name for name in files if name.split("/")[1] in outside]


def test_modules_outside_closures_exist_and_have_reasons() -> None:
    for module, reason in OUTSIDE.items():
        path = ROOT / Path(*module.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), module
        assert len(reason.split()) > 3


def test_alignment_reads_nothing_of_evaluation() -> None:
    files = reached("align", ROOT)
    assert "components/alignment/task.py" in files
    assert "components/engine/loop.py" in files
    assert "components/families/qwen2_vl.py" in files
    assert not [name for name in files if name.startswith(("components/evaluation/", "components/validation/"))]


def test_digests_with_a_filled_cache_take_well_under_a_second(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "components", tmp_path / "components", ignore=shutil.ignore_patterns("__pycache__"))
    assert digests(tmp_path) == digests(ROOT)
    began = time.process_time()
    digests(tmp_path)
    assert time.process_time() - began < 0.5
