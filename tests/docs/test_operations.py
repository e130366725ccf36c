"""The commands of docs/operations.md, nights.md and benchmarks-of-the-world.md: each tool parses its own; those of a team's week run on a real stack."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.exceptions import TyperException

from components.checkout import Checkout
from components.cli.main import app
from components.operations.services.state import read_addresses
from components.processes.marks import SERVICE_MARK, checkout_mark, marked
from components.processes.secrets import state_folder
from tests.checkout import ROOT, make_checkout, mmalign

PAGE = "\n".join((ROOT / f"docs/{name}.md").read_text() for name in ("operations", "nights", "benchmarks-of-the-world"))
BLOCKS = re.findall(r"^```\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
TOOLS = ("mmalign", "make", "dvc", "git", "systemctl", "useradd", "install", "cp", "chmod")
INLINE = re.findall(r"`((?:mmalign|make|dvc|git|chmod) [^`]+)`", PAGE)


def lines() -> list[str]:
    """The commands of the page's code blocks, and those within its text."""
    commands = [line.partition(" #")[0].strip() for block in BLOCKS for line in block.splitlines()]
    return [line for line in commands if line.split(" ")[0] in TOOLS] + INLINE


def spelled(command: str) -> list[list[str]]:
    """A command as a person types it: without its `[options]`, then with each of them."""
    words = command.replace("…", "x")
    optional = re.findall(r"\[([^\]]*)\]", words)
    bare = re.sub(r"\[[^\]]*\]", "", words)
    return [shlex.split(bare), *(shlex.split(f"{bare} {option}") for option in optional)]


def of(tool: str) -> list[str]:
    return sorted({line for line in lines() if line.startswith(f"{tool} ")})


def test_operations_page_covers_every_topic() -> None:
    assert len(of("mmalign")) > 30
    named = {line.split()[1] for line in of("mmalign")}
    assert named >= {"up", "down", "deploy", "status", "logs", "cancel", "resume", "backup", "restore", "migrate", "clean", "doctor", "run"}
    for title in ("Installing on a host", "Day two", "Backup and restore", "Upgrading", "When something breaks"):
        assert f"\n## {title}\n" in PAGE


NAMES = {
    "NAME": "align",
    "MODEL": "mm-policy",
    "VERSION": "1",
    "DIR": "folder",
    "FOLDER": "folder",
    "KEY=VALUE": "alignment.beta=0.2",
    "N": "2",
}


@pytest.mark.parametrize("command", of("mmalign"))
def test_mmalign_accepts_every_documented_command(command: str) -> None:
    root = typer.main.get_command(app)
    for words in spelled(command):
        arguments = [NAMES.get(word, word) for word in words[1:]]
        named_only = len(arguments) == 1 and command in INLINE  # a word of the text that means the command
        assert parse(root, [*arguments, "--help"] if named_only else arguments) in words


def parse(command: Any, arguments: list[str]) -> str:
    """Parse arguments through groups of commands and run nothing; returns the last command's name. Raises the command line's errors."""
    context = command.make_context("mmalign", [] if arguments == ["--help"] else list(arguments), resilient_parsing=arguments == ["--help"])
    if hasattr(command, "get_command"):
        assert arguments, f"{command.name} needs a command"
        inner = command.get_command(context, arguments[0])
        assert inner is not None, f"there is no `mmalign {' '.join(arguments)}`"
        return parse(inner, arguments[1:])
    return str(command.name)


@pytest.mark.parametrize("words", [["backup"], ["logs", "--stagger", "align"], ["backup", "a", "b"], ["no-such"]])
def test_parsing_detects_mistakes(words: list[str]) -> None:
    with pytest.raises((TyperException, AssertionError)):
        parse(typer.main.get_command(app), words)


@pytest.mark.parametrize("command", of("make"))
def test_make_has_every_documented_target(command: str) -> None:
    completed = subprocess.run(["make", "-n", *shlex.split(command)[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr


@pytest.mark.parametrize("command", of("dvc"))
def test_dvc_parses_every_documented_command(command: str) -> None:
    from dvc.cli import parse_args

    parsed = parse_args(shlex.split(command)[1:])
    assert parsed.func is not None


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[0][:40])
def test_every_documented_block_is_valid_shell(block: str) -> None:
    if ": {" in block:
        pytest.skip("settings, no commands")
    completed = subprocess.run(["bash", "-n", "-c", block], capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr


def test_documented_files_and_units_exist() -> None:
    for command in of("cp"):
        for name in shlex.split(command)[1:-1]:
            assert (ROOT / name).is_file(), name
    for template in re.findall(r"--template=(\S+)", PAGE):
        assert (ROOT / "infra/systemd" / template).is_file()
    for target in re.findall(r"\]\((\.\./[^)#]+|[\w-]+\.md)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
    for tool in ("useradd", "install", "systemd-escape"):
        if shutil.which(tool):
            assert subprocess.run([tool, "--help"], capture_output=True, check=False).returncode == 0


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return make_checkout(tmp_path / "checkout")


def block(title: str, number: int = 0) -> list[str]:
    """The commands of a code block below a title."""
    section = PAGE.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^```\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)[number].splitlines()


ELSEWHERE = ("make", "git", "cp", "systemctl", "useradd", "install")  # for a clone or root: tested above and by make install
# A checkout without artifacts and models has warnings and problems, which doctor reports.
MAY_FIND_PROBLEMS = "mmalign doctor"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_documented_operations_work_end_to_end(checkout: Path, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    try:
        run_all(checkout, block("Installing on a host", 1), folder)
        assert marked(SERVICE_MARK, checkout_mark(Checkout(checkout))) == []
        assert mmalign(checkout, "up", "--detach", timeout=900).returncode == 0
        run_all(checkout, block("Day two"), folder, skip=("mmalign logs -f",))  # no run has left logs
        run_all(checkout, block("Backup and restore", 0), folder)
        run_all(checkout, block("Upgrading"), folder)
        assert mmalign(checkout, "down").returncode == 0
        before = read_addresses(Checkout(checkout))
        state_folder(Checkout(checkout)).rename(tmp_path / "lost")
        run_all(checkout, block("Backup and restore", 1), folder)
        assert read_addresses(Checkout(checkout)) == before
    finally:
        if read_addresses(Checkout(checkout)) is not None:
            mmalign(checkout, "down")


def run_all(root: Path, commands: list[str], folder: Path, skip: tuple[str, ...] = ()) -> None:
    for command in commands:
        words = shlex.split(command.replace("/var/backups/mmalign", str(folder)).replace("/mnt/elsewhere", str(folder / "elsewhere")))
        if words[0] in ELSEWHERE or command in skip:
            continue
        assert words[0] == "mmalign", f"{command}: neither run here nor listed in ELSEWHERE"
        completed = mmalign(root, *words[1:], timeout=900)
        allowed = {0, 1} if command.startswith(MAY_FIND_PROBLEMS) else {0}
        assert completed.returncode in allowed, f"{command}: {completed.stderr}{completed.stdout}"
        assert "Traceback" not in completed.stderr
