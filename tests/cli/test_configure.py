from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from components.checkout import Checkout
from components.cli.run.configure import apply, profile_values
from components.config.profiles import PROFILES, header, names
from components.config.settings import known_keys, load_settings
from components.errors import UserError
from tests.checkout import ROOT, mmalign
from tests.settings import FILES, copy_settings

OTHERS = [name for name in names(ROOT / PROFILES) if name != "demo"]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A folder with the shipped settings and profiles."""
    copy_settings(tmp_path)
    shutil.copytree(ROOT / PROFILES, tmp_path / PROFILES)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    return tmp_path


def test_profiles_equal_documented_ones() -> None:
    assert OTHERS == ["internvl3-1b", "internvl3-8b", "llava-ov-0.5b", "llava-ov-7b", "qwen2-vl-7b", "qwen2.5-vl-7b", "qwen3-vl-8b"]
    text = (ROOT / "docs/real-models.md").read_text()
    assert all(f"`{name}`" in text for name in OTHERS)


@pytest.mark.parametrize("name", OTHERS)
def test_profile_and_demo_restore_shipped_settings(workspace: Path, name: str) -> None:
    assert apply(Checkout(workspace), name, [])
    for file in FILES:
        assert (workspace / file).read_bytes() != (ROOT / file).read_bytes()
    assert (
        load_settings(workspace / "params.yaml").model.base
        == Path("data/models") / header(workspace / f"profiles/{name}.yaml")["checkpoint"].split("/")[1]
    )
    apply(Checkout(workspace), "demo", [])
    for file in FILES:
        assert (workspace / file).read_bytes() == (ROOT / file).read_bytes()


@pytest.mark.parametrize("name", OTHERS)
def test_profile_has_valid_keys_and_a_source_for_each(name: str) -> None:
    assert {key for key, _ in profile_values(ROOT / PROFILES, name)} <= set(known_keys())
    about = header(ROOT / PROFILES / f"{name}.yaml")
    assert about["checkpoint"].count("/") == 1
    assert "GPU" in about["machine"]
    for line in (ROOT / PROFILES / f"{name}.yaml").read_text().splitlines():
        value = line.partition("#")[0]
        if ": " in value and not line.startswith("#"):
            assert line.partition("#")[2].strip().startswith(("ours", "paper", "where")), line


def test_demo_profile_resets_what_others_change() -> None:
    shipped = {key: yaml.safe_load(value) for name in ("params", "ops") for key, value in profile_values(ROOT, name)}
    others = [profile_values(ROOT / PROFILES, name) for name in OTHERS]
    changed = {key for values in others for key, value in values if yaml.safe_load(value) != shipped[key]}
    assert {key: yaml.safe_load(value) for key, value in profile_values(ROOT / PROFILES, "demo")} == {key: shipped[key] for key in changed}


def test_paper_profile_equals_paper() -> None:
    seven = dict(profile_values(ROOT / PROFILES, "llava-ov-7b"))
    assert {
        key: yaml.safe_load(seven[f"alignment.{key}"]) for key in ("beta", "beta_weight", "beta_scale", "beta_schedule", "warmup_share")
    } == {
        "beta": 0.1,
        "beta_weight": 0.5,
        "beta_scale": 0.5,
        "beta_schedule": "drs",
        "warmup_share": 0.1,
    }
    for name in OTHERS:
        values = dict(profile_values(ROOT / PROFILES, name))
        assert float(values["alignment.learning_rate"]) in {1e-7, 5e-7, 1e-6, 5e-6, 1e-5}
        assert float(values["alignment.sft_weight"]) in {0, 0.1, 0.25, 0.5, 1}
        assert float(values["training.parts.tower"]) == 0
    assert float(dict(profile_values(ROOT / PROFILES, "internvl3-1b"))["alignment.sft_weight"]) == 0


def test_setting_overrides_profile_and_comments_stay(workspace: Path) -> None:
    changes = apply(Checkout(workspace), "qwen3-vl-8b", ["training.ranks=4", "alignment.learning_rate=5e-7"])
    assert changes["training.ranks"] == (2, 4)
    assert changes["stages.align.gpus"] == (0, 8)
    assert changes["alignment.learning_rate"] == (0.0004, 5e-7)
    assert "alignment.beta" not in changes
    for file in FILES:
        comments = [[line.partition("#")[2] for line in (folder / file).read_text().splitlines()] for folder in (ROOT, workspace)]
        assert comments[0] == comments[1]
    assert apply(Checkout(workspace), "qwen3-vl-8b", ["training.ranks=4", "alignment.learning_rate=5e-7"]) == {}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("training:\n  rank: 8\n", r"profiles/mine\.yaml: unknown key 'training\.rank'; did you mean 'training\.ranks'\?"),
        ("alignment:\n  normalise: pair\n", r"mine\.yaml: unknown key 'alignment\.normalise'; it is called alignment\.normalize now"),
        ("alignment:\n  margins: standardised\n", r"'alignment\.margins' is 'standardised'; that value is called standardized now"),
        ("training:\n  ranks: 0\n", r"profiles/mine\.yaml: 'training\.ranks' is 0"),
        ("training: [\n", r"mine\.yaml is not valid YAML"),
        ("- training\n", r"must be a mapping of sections"),
        ("alignment:\n  loss_type: ipo\n", r"IPO goes with alignment\.beta_schedule constant"),
    ],
)
def test_broken_profile_changes_nothing(workspace: Path, text: str, sentence: str) -> None:
    (workspace / "profiles/mine.yaml").write_text(text)
    with pytest.raises(UserError, match=sentence) as error:
        apply(Checkout(workspace), "mine", [])
    assert "\n" not in str(error.value)
    assert (workspace / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_configure_lists_writes_and_refuses(workspace: Path) -> None:
    listed = json.loads(mmalign(workspace, "configure", "--list", "--json").stdout)
    assert listed["qwen2.5-vl-7b"]["checkpoint"] == "Qwen/Qwen2.5-VL-7B-Instruct"
    completed = mmalign(workspace, "configure", "--profile", "qwen2.5-vl-7b", "--set", "training.ranks=4")
    assert "training.ranks: 2 -> 4" in completed.stdout
    assert "model.attention: sdpa -> flex_attention" in completed.stdout
    assert "stages.align.gpus: 0 -> 8" in completed.stdout
    assert re.search(r"^params\.yaml: \d+ settings changed\nops\.yaml: 5 settings changed$", completed.stdout, re.MULTILINE)
    for arguments, sentence in (
        (("--profile", "qwen9"), "there is no such profile; there are demo, internvl3-1b"),
        ((), "nothing to configure"),
    ):
        refused = mmalign(workspace, "configure", *arguments)
        assert refused.returncode == 2
        assert sentence in refused.stderr
        assert refused.stderr.count("\n") == 1
