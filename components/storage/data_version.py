"""The version of `data/`: compares it with data.dvc, fetches missing files, commits changed ones.

- Where files are only missing, `sync_data` fetches them from the remote in data.dvc, else from the team's. Where this checkout has had
  them all, somebody removed them: what was removed stays so, and a run refuses until the removal is accepted.
- It commits changed and added files as a new version. It never overwrites an edit.
- Where a person removed files beside other changes, it refuses until they accept the removal.
- data.dvc pins the bundled version to a remote inside the repository. The first commit of other data removes the pin: with it, `dvc push` to
  another remote would store nothing; without it, no push can write into the repository by accident.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.checkout import Checkout
from components.errors import UserError
from components.files import is_writable, write_atomic
from components.storage.integrity import remove_damaged_from
from components.storage.repository import open_repository, refuse_unstorable

DATA_FILE = "data.dvc"
TEAM_REMOTE = "s3"  # the remote in .dvc/config whose bucket a team sets
MEDIA_DEPTH = 3  # data/preferences/FOLDER/...: media lie below it
UNSET_BUCKET = "SET-YOUR-BUCKET"
GROUND_TRUTH_NOTE = """# No ground truth yet

Evaluation marks an answer right by the ground truth of its query. Put it into `truth.jsonl` in this folder, one object a line:

    {"id": "a held-out query's id", "must": [["accepted wording", "another wording of the same fact"]], "must_not": ["wording that makes it wrong"]}

Without ground truth, the metrics that need it are null. The others are complete.
"""


@dataclass(frozen=True)
class DataState:
    """Files below data/ that differ from data.dvc, each list sorted. `version` is the hash that data.dvc holds, None before the first commit."""

    version: str | None
    missing: list[str]
    changed: list[str]
    added: list[str]
    present: int  # number of files below data/
    cached: bool  # whether DVC's cache holds all recorded files
    was_whole: bool = False  # whether this checkout has had all files of the version

    @property
    def differs(self) -> bool:
        """Whether a run must fetch or commit first."""
        return self.version is None or bool(self.missing or self.changed or self.added) or not self.cached

    @property
    def removed(self) -> bool:
        """Whether somebody removed the missing files: they are not yet to be fetched, and data/ is not gone as a whole."""
        return bool(self.missing) and self.was_whole and self.present > 0


def data_state(checkout: Checkout) -> DataState:
    """Compare data/ with data.dvc, and note a version that is whole. Raises UserError where both are missing."""
    with open_repository(checkout) as repository:
        return _state(repository)


def make_ground_truth_folder(checkout: Checkout) -> bool:
    """Create data/truth with a note where it is missing, since evaluation depends on it. Returns whether it was missing."""
    if checkout.ground_truth.parent.exists():
        return False
    write_atomic(checkout.ground_truth.parent / "NOTE.md", GROUND_TRUTH_NOTE)
    return True


def fetch_folder(checkout: Checkout, name: str, log: Callable[[str], None]) -> None:
    """Fetch one folder of data/, and leave the rest as it is. Raises UserError."""
    from dvc.exceptions import DvcException

    with open_repository(checkout, wait_for_lock=True) as repository:
        log(f"fetching {name}")
        try:
            repository.pull(targets=[str(checkout.root / name)], remote=_remote_of(repository, data_stage(repository).outs[0]))
        except (DvcException, OSError) as error:
            raise UserError(f"{name} can't be fetched ({' '.join(str(error).split())}): put it back, and try again") from error


def check_removals(state: DataState, *, accept: bool) -> None:
    """Raises UserError where files are missing beside other changes, unless `accept` is set."""
    if state.missing and (state.changed or state.added) and not accept:
        raise UserError(
            f"{_count(state.missing)} of data/ were removed ({_names(state.missing)}) while {_count(state.changed + state.added)} are changed or "
            "new: put the removed files back, or make this the new version with --accept-data"
        )
    if state.removed and not accept:
        raise UserError(
            f"{_count(state.missing)} of data/ were removed ({_names(state.missing)}): make this the new version with --accept-data, "
            "or put them back with `dvc checkout data.dvc`"
        )


def sync_data(checkout: Checkout, *, accept: bool, log: Callable[[str], None]) -> str:
    """Make data/ and data.dvc agree by the rules above, log each step, and return the version (a hash)."""
    with open_repository(checkout, wait_for_lock=True) as repository:
        state = _state(repository)
        check_removals(state, accept=accept)
        only_missing = bool(state.missing) and not (state.changed or state.added)
        if only_missing and (not accept or state.present == 0):
            log(f"fetching {_count(state.missing)} of data/ that data.dvc names")
            _pull(repository, state, log)
            write_atomic(checkout.whole_data, str(state.version))
            return str(state.version)
        if make_ground_truth_folder(checkout):
            log("data/truth is missing, so the metrics that need ground truth will be null: see data/truth/NOTE.md")
            state = _state(repository)
        if not state.differs and state.version is not None:
            return state.version
        for word, names in (("changed", state.changed), ("new", state.added), ("removed", state.missing)):
            if names:
                log(f"{_count(names)} of data/ {word}: {_names(names)}")
        own = bool(state.changed or state.added or state.missing)
        version = _commit(repository, own_data=own)
        write_atomic(checkout.whole_data, version)
        if own:
            log(f"committed data/ as version {version}; record it with: git add data.dvc && git commit -m 'New data'")
            log(push_hint(repository.config))
        return version


def push_hint(config: Mapping[str, Any]) -> str:
    """How to store the data outside this machine: the push command, or the command that sets a bucket."""
    url = str(config.get("remote", {}).get(TEAM_REMOTE, {}).get("url", UNSET_BUCKET))
    if UNSET_BUCKET in url:
        return "it is on this machine only; to store it elsewhere, set a bucket: dvc remote modify s3 url s3://BUCKET/PREFIX"
    return "to store it elsewhere: dvc push -r s3 data.dvc"


def _state(repository: Any) -> DataState:
    root = Path(repository.root_dir)
    if not (root / DATA_FILE).exists():
        if not (root / "data").is_dir():
            raise UserError("data/ and data.dvc are missing: check out data.dvc with git, or put your rows into data/preferences")
        refuse_unstorable(Checkout(root))
        present = sorted(path.relative_to(root).as_posix() for path in (root / "data").rglob("*") if path.is_file())
        return DataState(None, [], [], present, len(present), cached=False)
    out = data_stage(repository).outs[0]
    now = _files_now(out)
    recorded = _files_recorded(out, _remote_of(repository, out))
    if recorded is None:
        # The list of files is unavailable, but equal hashes show that nothing differs.
        if not now or out.get_hash() != out.hash_info:
            raise UserError(
                f"the list of files of data version {out.hash_info.value} is neither in DVC's cache nor in a remote: fetch it with "
                "`dvc pull -r REMOTE data.dvc`, or make what lies in data/ a new version with `dvc add data`"
            )
        return DataState(out.hash_info.value, [], [], [], len(now), cached=False)
    version, missing, note = out.hash_info.value, sorted(recorded.keys() - now.keys()), Checkout(root).whole_data
    if now and not missing and _whole_version(note) != version and is_writable(note):
        write_atomic(note, version)
    return DataState(
        version=version,
        missing=missing,
        changed=sorted(name for name in recorded.keys() & now.keys() if recorded[name] != now[name]),
        added=sorted(now.keys() - recorded.keys()),
        present=len(now),
        cached=not out.changed_cache(),
        was_whole=_whole_version(note) == version,
    )


def _whole_version(note: Path) -> str | None:
    return note.read_text(encoding="utf-8") if note.is_file() else None


def data_stage(repository: Any) -> Any:
    """The DVC stage of data.dvc."""
    return repository.stage.load_one(str(Path(repository.root_dir, DATA_FILE)))


def _files_now(out: Any) -> dict[str, str]:
    from dvc_data.hashfile.build import build

    if not out.exists:
        return {}
    tree: Any
    _, _, tree = build(out.cache, out.fs_path, out.fs, out.hash_name, ignore=out.dvcignore, dry_run=True)
    return {"/".join((out.def_path, *key)): hashed.value for key, (_, hashed) in tree.as_dict().items()}


def _remote_of(repository: Any, out: Any) -> str | None:
    """The remote to fetch from: the one in data.dvc, else the team's where it has a bucket. None leaves the choice to DVC."""
    if out.remote:
        return str(out.remote)
    url = str(repository.config.get("remote", {}).get(TEAM_REMOTE, {}).get("url", UNSET_BUCKET))
    return None if UNSET_BUCKET in url else TEAM_REMOTE


def _files_recorded(out: Any, remote: str | None) -> dict[str, str] | None:
    from dvc.exceptions import DvcException
    from dvc_data.hashfile.tree import Tree

    tree: Any = out.get_obj()
    if tree is None:
        try:
            tree = out.get_dir_cache(**({"remote": remote} if remote else {}))
        except (DvcException, OSError):
            return None
    if not isinstance(tree, Tree):
        return None
    files: Any = tree
    return {"/".join((out.def_path, *key)): hashed.value for key, (_, hashed) in files.as_dict().items()}


def _pull(repository: Any, state: DataState, log: Callable[[str], None]) -> None:
    from dvc.exceptions import DvcException

    out = data_stage(repository).outs[0]
    remote = _remote_of(repository, out)
    recorded = _files_recorded(out, remote) or {}
    for path in remove_damaged_from(repository, [recorded[name] for name in state.missing if name in recorded]):
        log(f"{path} was damaged: removed, to be fetched from the remote")
    try:
        repository.pull(targets=[str(Path(repository.root_dir, DATA_FILE))], remote=remote)
    except (DvcException, OSError) as error:
        raise UserError(
            f"{_count(state.missing)} of data/ are missing ({_names(state.missing)}) and can't be fetched ({' '.join(str(error).split())}): "
            "put them back, or make the remaining files the new version with --accept-data"
        ) from error


def _commit(repository: Any, *, own_data: bool) -> str:
    if not Path(repository.root_dir, DATA_FILE).exists():
        (stage,) = repository.add([str(Path(repository.root_dir, "data"))])
        return str(stage.outs[0].hash_info.value)
    return commit_as_it_is(repository, **({"remote": None, "can_push": True} if own_data else {}))


def commit_as_it_is(repository: Any, **pin: Any) -> str:
    """Write data/ as it is into DVC's cache and data.dvc, with `remote` and `can_push` where they are given; returns the version."""
    with repository.lock:
        stage = data_stage(repository)
        for name, value in pin.items():
            setattr(stage.outs[0], name, value)
        stage.save()
        stage.commit()
        stage.dump()
        return str(stage.outs[0].hash_info.value)


def _count(names: list[str]) -> str:
    return f"{len(names)} file{'s' if len(names) != 1 else ''}"


def _names(names: list[str]) -> str:
    """Names for logs and notices. Media appear as their folder only: a file's name may name the person in the picture."""
    shown = list(
        dict.fromkeys(name if name.count("/") < MEDIA_DEPTH else f"{'/'.join(name.split('/')[:MEDIA_DEPTH])}/..." for name in names)
    )
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")
