"""Parsers of settings, rules, run parameters, tables of results, backups, and of words that are shown."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import yaml

from components.benches.catalogue import PATH as CATALOGUE
from components.benches.catalogue import parse_catalogue
from components.benches.tables import read_results
from components.config.overrides import changed_settings
from components.config.reading import yaml_values
from components.config.settings import load_settings
from components.critique import expansion_prompt
from components.evaluation import wording
from components.operations.backup.manifest import FORMAT, MANIFEST, check_versions, installed_versions, read_manifest
from components.printable import CODES, printable
from components.processes.redaction import Redactor
from components.registry.policy import Margin, Most, RegistryPolicy, load_policy
from components.registry.reuse import NthLook
from tests.fuzz.rows import in_file, value_of

ROOT = Path(__file__).resolve().parents[2]
RULES = yaml.safe_load((ROOT / "mlflow/registry.yaml").read_text())
PARAMS, OPS = (yaml.safe_load((ROOT / name).read_text()) for name in ("params.yaml", "ops.yaml"))
BENCHMARKS = yaml.safe_load(CATALOGUE.read_text())
PARAMETERS = {
    "overrides": ["alignment.beta=0.2"],
    "stages": ["reward"],
    "source": "git",
    "ref": "main",
    "repository": "https://example.com/a.git",
    "promote": False,
    "goes_on_from": "0" * 8 + "-0000-0000-0000-" + "0" * 12,
    "started": 1.5,
}
ASSIGNMENTS = (
    b"alignment.beta=0.2",
    b"model.base=data/base\nvalidate.min_responses=2",
    b"training.precision=bf16",
    b"deployments.cron=0 1 * * *\nendpoint.judge.url=http://localhost:1/v1",
)
BACKUP = {
    "format": FORMAT,
    "kind": "sqlite",
    "made": "2026-01-01",
    "root": "/x",
    "git_sha": None,
    "versions": installed_versions() | {"postgresql": "18.1"},
    "bucket": None,
    "external_database": False,
    "files": {"checkout/params.yaml": "0", "artifacts/a/b": "0"},
}
RESULTS = {
    "title": "t",
    "model": "m",
    "tables": [{"name": "n", "models": ["m"], "rows": {BENCHMARKS["benchmarks"][0]["metrics"][0]["row"]: [[1, 2.5]]}}],
    "printed": [{"name": "p", "model": "m", "means": {next(iter(BENCHMARKS["means"])): {"before": 1, "after": 2, "relative": 1.0}}}],
    "averages": [{"name": "a", "mean": "x", "weights": {"y": 1}, "rows": {"r": {"x": 1, "y": 1}}}],
}
WORDS = (
    "A dog.\nVERDICT: good",
    "1,234.5 kg at 5:30 pm, not 12 cats",
    "I can't help with that.",
    "\x1b[31m\u202e token=abcdefg http://u:p@h/",
)


def params(content: bytes) -> None:
    """A text of params.yaml."""
    _settings(content, "params.yaml")


def ops(content: bytes) -> None:
    """A text of ops.yaml."""
    _settings(content, "ops.yaml")


def _settings(content: bytes, replaced: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("params.yaml", "ops.yaml"):
            (Path(folder) / name).write_bytes(content if name == replaced else (ROOT / name).read_bytes())
        load_settings(Path(folder) / "params.yaml")


def overrides(content: bytes) -> None:
    """Lines of `--set`."""
    changed_settings(ROOT / "params.yaml", content.decode(errors="surrogateescape").split("\n"))


def run_parameters(content: bytes) -> None:
    """Parameters of a run as Prefect's form sends them."""
    from flows.parameters import RunParameters

    RunParameters.model_validate(value_of(content))


def rules(content: bytes) -> None:
    """The rules of promotion, and how many rows they need at the first looks and at a late one."""

    def parse(path: Path) -> None:
        policy: RegistryPolicy = load_policy(path)
        for number in (1, 2, 1000):
            look = NthLook(number, 1 - policy.confidence)
            look.intervals()
            for part in (policy.policy, policy.reward):
                for name in type(part).model_fields:
                    rule = getattr(part, name)
                    if isinstance(rule, Margin | Most):
                        rule.needed(look.tail)
        policy.digest("mm-policy")

    in_file(content, "registry.yaml", parse)


def catalogue(content: bytes) -> None:
    """A catalogue of benchmarks."""
    parse_catalogue(yaml_values(content.decode(errors="replace"), "catalogue.yaml"))


def results(content: bytes) -> None:
    """A table of results."""
    in_file(content, "results.json", read_results)


def backup(content: bytes) -> None:
    """The manifest of a backup."""
    in_file(content, MANIFEST, lambda path: check_versions(read_manifest(path.parent), "18.6 (Debian)"))


def words(content: bytes) -> None:
    """A text of a model or a log: what reads and shows it never fails, and shows no control character."""
    text = content.decode(errors="surrogateescape")
    expansion_prompt.parse(text)
    for judge in (wording.refuses, wording.complies, wording.is_degenerate):
        judge(text)
    wording.states_any(text, ["12", "a dog"])
    wording.states_any("12 dogs", [text])
    Redactor(["secret-7", text]).clean(text)
    assert not CODES.search(printable(text))


def json_text(value: Any) -> bytes:
    """A value as JSON, which YAML takes too."""
    return json.dumps(value, indent=1).encode()
