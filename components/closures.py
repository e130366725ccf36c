"""What a stage's code means: the files that it can reach by imports, and one digest of them.

- A closure starts at the stage's row in `components.stages`: its function, its tasks, the processes that it starts, its sections of settings.
  It follows every import from there, those inside functions too; imports under `if TYPE_CHECKING` are left out, since they never run.
- The digest reads each file as `components.meaning` does: comments, docstrings, annotations, formatting and messages do not count.
- DVC depends on the digests in `Checkout.digests`, which `mmalign stage code` writes; checkpoints and cached results have them in their keys.
- Digests are always of the code that runs: this package's folder, not the current one.

Only the standard library is imported here: DVC runs this before every pipeline.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from components import stages
from components.checkout import Checkout
from components.errors import UserError
from components.files import write_atomic
from components.meaning import Meaning, read_meaning
from components.stages import OUTSIDE, STAGE_NAMES, StageName

CODE_ROOT = Path(__file__).resolve().parents[1]
CODE_STAGE = "code"  # of dvc.yaml: writes the digests, and is no stage of the table
CACHE = Path("components/__pycache__/closures.json")


@cache
def code_digest(stage: StageName) -> str:
    """Digest of the code of `stage` as it was when this process first asked; 64 hex digits. For keys of what this process computes."""
    return digests()[stage]


def write_digests(checkout: Checkout, stages: Iterable[StageName] = STAGE_NAMES) -> None:
    """Write the digest of each of `stages`, as their code is now, in a checkout."""
    current = digests()
    for stage in stages:
        write_digest(checkout, stage, current[stage])


def write_digest(checkout: Checkout, stage: StageName, digest: str) -> None:
    """Write the digest of one stage. A file that is right already is not touched."""
    path, text = digest_path(checkout, stage), digest_text(digest)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_atomic(path, text)


def digest_path(checkout: Checkout, stage: StageName) -> Path:
    """Where the digest of a stage lies in a checkout."""
    return checkout.digests / f"{stage}.txt"


def digest_text(digest: str) -> str:
    """What the file of a digest holds."""
    return f"{digest}\n"


def closure(stage: StageName, root: Path | None = None) -> list[Path]:
    """The files that `stage` can reach, relative to `root` (the running code's), sorted."""
    return sorted(_reached(stage, _Files(root or CODE_ROOT)))


def digests(root: Path | None = None) -> dict[StageName, str]:
    """Digest of each stage's closure in the code at `root` (the running code's) as it is now.

    Raises UserError for a file that is no valid Python, or an import of nothing.
    """
    files = _Files(root or CODE_ROOT)
    result: dict[StageName, str] = {}
    for stage in STAGE_NAMES:
        parts = stages.row(stage)
        parts += [f"{path.as_posix()} {files.meaning(path).digest}" for path in sorted(_reached(stage, files))]
        result[stage] = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    files.save()
    return result


def _reached(stage: StageName, files: _Files) -> set[Path]:
    waiting = [path for name in stages.row(stage) for path in files.of_import(name.partition(":")[0], (), "components/stages.py")]
    reached: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in reached or is_outside(path):
            continue
        reached.add(path)
        waiting += files.imported_by(path)
    return reached


def is_outside(path: Path) -> bool:
    """Whether a file, relative to the root, belongs to a module in OUTSIDE."""
    module = path.with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    return any(module == name or module.startswith(f"{name}.") for name in OUTSIDE)


class _Files:
    """The source files at `root`, each read once. Meanings of earlier calls are cached by the digest of a file's bytes, never by its times."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._meanings: dict[Path, Meaning] = {}
        self._imported: dict[Path, list[Path]] = {}
        self._paths: dict[str, Path | None] = {}
        self._header = hashlib.sha256(Path(__file__).with_name("meaning.py").read_bytes()).hexdigest()
        self._cached = self._load()
        self._entries: dict[str, Any] = {}

    def meaning(self, path: Path) -> Meaning:
        """What the file at `path` means."""
        if path not in self._meanings:
            source = (self._root / path).read_bytes()
            key = hashlib.sha256(path.as_posix().encode() + b"\0" + source).hexdigest()
            entry = self._cached.get(key)
            meaning = Meaning.from_json(entry) if entry is not None else _read(path, source)
            self._entries[key] = meaning.to_json()
            self._meanings[path] = meaning
        return self._meanings[path]

    def imported_by(self, path: Path) -> list[Path]:
        """The files that the file at `path` imports."""
        if path not in self._imported:
            imports = self.meaning(path).imports
            self._imported[path] = [one for module, names in imports for one in self.of_import(module, names, path.as_posix())]
        return self._imported[path]

    def of_import(self, module: str, names: tuple[str, ...], importer: str) -> Iterator[Path]:
        """Files that `import module` runs, or `from module import names`: the packages on the way, the module, submodules among the names."""
        parts = module.split(".")
        for count in range(1, len(parts) + 1):
            path = self._file(".".join(parts[:count]))
            if path is None:
                raise UserError(f"{importer} imports {module}, which does not exist: correct the import")
            yield path
        package = self._file(module)
        if package is not None and package.name == "__init__.py":
            # A name that the package binds itself is that; any other is looked for among its modules.
            others = [name for name in names if name not in self.meaning(package).names]
            yield from (path for name in others if (path := self._file(f"{module}.{name}")) is not None)

    def save(self) -> None:
        """Write the cache, where the folder allows it."""
        if self._entries == self._cached:
            return
        try:
            write_atomic(self._root / CACHE, json.dumps({"reader": self._header, "meanings": self._entries}))
        except OSError:
            return  # code in a folder that can't be written to is read anew each time

    def _load(self) -> dict[str, Any]:
        try:
            stored = json.loads((self._root / CACHE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return dict(stored["meanings"]) if stored.get("reader") == self._header else {}

    def _file(self, module: str) -> Path | None:
        if module not in self._paths:
            folder = Path(*module.split("."))
            candidates = (folder / "__init__.py", folder.with_suffix(".py"))
            self._paths[module] = next((path for path in candidates if (self._root / path).is_file()), None)
        return self._paths[module]


def _read(path: Path, source: bytes) -> Meaning:
    try:
        return read_meaning(source, path.as_posix())
    except SyntaxError as error:
        raise UserError(f"{path}:{error.lineno} is no valid Python ({error.msg}): correct it") from error
