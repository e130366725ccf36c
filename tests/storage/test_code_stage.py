"""The real dvc.yaml and the real code, with stages that write small outs: what makes which stage stale."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components import closures
from components.checkout import Checkout
from components.closures import CODE_STAGE, closure, digests
from components.stages import STAGE_NAMES, StageName
from components.storage.plan import plan, stage_parents
from tests.checkout import ROOT, clean_environment, git, started

# Every out of a stage, the same whenever it is made: a folder where its name has no suffix.
STAGE_SCRIPT = """
import pathlib, sys
name, *outs = sys.argv[1:]
with open("started.log", "a") as log:
    log.write(name + "\\n")
for out in map(pathlib.Path, outs):
    path = out if out.suffix else out / "file"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
"""
EVERY = dict.fromkeys(STAGE_NAMES, "skip")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which all stages have run once under `dvc repro`."""
    folder = tmp_path_factory.mktemp("code") / "checkout"
    shutil.copytree(ROOT / "components", folder / "components", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "infra/deepspeed", folder / "infra/deepspeed")
    shutil.copytree(ROOT / "judges", folder / "judges")
    shutil.copytree(ROOT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
    for name in (".dvcignore", ".gitignore", "params.yaml", "ops.yaml"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "stage.py").write_text(STAGE_SCRIPT)
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    assert pipeline["stages"][CODE_STAGE]["cmd"] == "mmalign stage code"
    pipeline["stages"][CODE_STAGE]["cmd"] = f"{sys.executable} -m components.cli.main stage code"
    for name in STAGE_NAMES:
        stage = pipeline["stages"][name]
        stage["cmd"] = f"{sys.executable} stage.py {name} {' '.join([*stage['outs'], *stage['metrics']])}"
    (folder / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))
    base = [
        f"base/{name}"
        for name in ("config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    ]
    for name in ("preferences/data.jsonl", "truth/truth.jsonl", *base):
        (folder / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "data" / name).write_text("1\n")
    git(folder, "init", "-q", "-b", "main")
    repro(folder)
    assert started(folder) == list(STAGE_NAMES)
    return folder


@pytest.fixture
def checkout(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "checkout"
    shutil.copytree(template, folder, symlinks=True)
    (folder / "started.log").unlink()
    monkeypatch.setattr(closures, "CODE_ROOT", folder)
    return folder


def repro(folder: Path, *arguments: str) -> None:
    command = [str(Path(sys.executable).parent / "dvc"), "repro", *arguments]
    subprocess.run(command, cwd=folder, check=True, env=clean_environment(), capture_output=True)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{path} has changed: choose another place"
    path.write_text(text.replace(old, new, 1))


def actions(folder: Path) -> dict[str, str]:
    return {name: step.action for name, step in plan(Checkout(folder)).items()}


def edit_texts(folder: Path) -> None:
    """A comment, a docstring, a log line and an annotation, in files of all closures and of the trainings'."""
    errors, losses = folder / "components/errors.py", folder / "components/reward/losses.py"
    errors.write_text(errors.read_text() + "\n# a comment at the end\n")
    replace(errors, '"""', '"""Changed: ')
    lines = losses.read_text().splitlines(keepends=True)
    start = next(number for number, line in enumerate(lines) if line.startswith("def "))
    end = next(number for number in range(start, len(lines)) if lines[number].rstrip().endswith(":")) + 1
    losses.write_text("".join([*lines[:end], '    print(f"a log line of {len(__name__)} letters", flush=True)\n', *lines[end:]]))
    replace(folder / "components/files.py", "def digest_file(path: Path) -> str:", "def digest_file(path: object) -> object:")


def test_comment_docstring_log_line_annotation_leave_all_at_skip(checkout: Path) -> None:
    assert actions(checkout) == EVERY
    edit_texts(checkout)
    assert actions(checkout) == EVERY
    repro(checkout)
    assert started(checkout) == []


def test_new_key_of_a_section_runs_its_stage_alone(checkout: Path) -> None:
    for section, key in (("evaluate", "    samples:"), ("validate", "    heldout_share:")):
        replace(checkout / f"components/config/{section}.py", key, f"    fresh_key: int = 1\n{key}")
        if section == "evaluate":
            assert actions(checkout) == EVERY | {"evaluate": "run"}
        replace(checkout / "params.yaml", f"\n{section}:\n", f"\n{section}:\n  fresh_key: 2\n")
    steps = plan(Checkout(checkout))
    assert {name: step.action for name, step in steps.items()} == EVERY | {"validate": "run", "evaluate": "run"}
    assert steps["reward"].reason == steps["align"].reason == "nothing changed, unless validate changes its outputs"
    repro(checkout)
    assert started(checkout) == ["validate", "evaluate"]
    assert actions(checkout) == EVERY


def test_changed_data_of_validate_leaves_stages_below_open(checkout: Path) -> None:
    text = (checkout / "params.yaml").read_text()
    (checkout / "params.yaml").write_text(re.sub(r"(heldout_share: )\S+", r"\g<1>0.3", text))
    assert actions(checkout)["reward"] == "run_if_changed"
    (checkout / "params.yaml").write_text(text)
    replace(checkout / "components/validation/splitting.py", "len(tied) < 2", "len(tied) <= 2")
    assert actions(checkout) == EVERY | {"validate": "run", "evaluate": "run"}
    (checkout / "artifacts/validate/quarantine.jsonl").write_text("by hand\n")
    assert actions(checkout)["reward"] == "run_if_changed"


@pytest.mark.parametrize(
    ("file", "old", "new", "stale"),
    [
        ("components/reward/losses.py", "0]] - score_K", "0]] + score_K", ["reward"]),
        ("components/alignment/losses.py", "return log_prob_K - ", "return log_prob_K + ", ["align"]),
        ("components/evaluation/judge.py", " == ", " != ", ["evaluate"]),
        ("components/validation/splitting.py", "len(tied) < 2", "len(tied) <= 2", ["validate", "evaluate"]),
        ("components/trees/planning.py", "start + queries", "start - queries", ["reward", "critique", "reference", "align", "evaluate"]),
    ],
)
def test_operator_runs_stages_whose_closure_holds_it(checkout: Path, file: str, old: str, new: str, stale: list[StageName]) -> None:
    replace(checkout / file, old, new)
    steps = plan(Checkout(checkout))
    assert [name for name, step in steps.items() if step.action == "run"] == stale
    assert all("its code changed" in steps[name].reason for name in stale)
    assert {step.action for name, step in steps.items() if name not in stale} <= {"skip", "run_if_changed"}


def test_operator_runs_its_stages_under_bare_dvc_repro(checkout: Path) -> None:
    original = (checkout / "components/reward/losses.py").read_text()
    replace(checkout / "components/reward/losses.py", "0]] - score_K", "0]] + score_K")
    repro(checkout, "align")
    assert started(checkout) == ["reward"]
    assert actions(checkout) == EVERY
    (checkout / "components/reward/losses.py").write_text(original)
    assert actions(checkout) == EVERY | {"reward": "restore"}
    repro(checkout)
    assert started(checkout) == ["reward"]


def test_every_file_of_every_closure_counts(checkout: Path) -> None:
    holds = {name: set(closure(name)) for name in STAGE_NAMES}
    before = digests()
    for path in sorted(set().union(*holds.values())):
        source = (checkout / path).read_text()
        (checkout / path).write_text(f"{source}\nadded = 1\n")
        after = digests()
        assert {name for name in STAGE_NAMES if after[name] != before[name]} == {name for name in STAGE_NAMES if path in holds[name]}, path
        (checkout / path).write_text(source)


def test_plan_does_not_trust_written_digests(checkout: Path) -> None:
    shutil.rmtree(checkout / "artifacts/code")
    assert actions(checkout) == EVERY
    replace(checkout / "components/alignment/losses.py", "return log_prob_K - ", "return log_prob_K + ")
    (checkout / "artifacts/code").mkdir()
    for name in STAGE_NAMES:
        (checkout / f"artifacts/code/{name}.txt").write_text("of earlier code\n")
    assert actions(checkout) == EVERY | {"align": "run", "evaluate": "run_if_changed"}
    assert (checkout / "artifacts/code/align.txt").read_text() == "of earlier code\n"


def test_stage_code_is_no_step_and_no_parent(checkout: Path) -> None:
    parents = stage_parents(Checkout(checkout))
    assert list(parents) == list(STAGE_NAMES)
    assert not any(CODE_STAGE in names for names in parents.values())


def test_stages_list_no_code_but_their_digest() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert list(stages) == [CODE_STAGE, *STAGE_NAMES]
    for name in STAGE_NAMES:
        assert f"artifacts/code/{name}.txt" in stages[name]["deps"]
        assert not [path for path in stages[name]["deps"] if path.startswith("components")]
