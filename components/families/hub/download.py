"""Downloads files from the hub, or from HF_ENDPOINT, by huggingface_hub, and compares each with the sha that the hub states."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.errors import UserError
from components.families.hub import files
from components.families.hub.fetch import Log, check_space
from components.files import digest_file, read_json

BLOCK = 1 << 20


def download(name: str, revision: str | None, staging: Path, log: Log) -> tuple[dict[str, str], str]:
    """Download a hub model's files into `staging`; return sha256 by file name, and the commit. Raises UserError with one sentence."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        raise UserError(f"HF_HUB_OFFLINE is set, so {name} can't be fetched: unset it, or name a local folder")
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")  # plain HTTP resumes into a folder, and needs no cache beside it
    from huggingface_hub import HfApi, hf_hub_download

    with _sentences(name, revision):
        info = HfApi().model_info(name, revision=revision, files_metadata=True)
    commit = str(info.sha)
    stated = {sibling.rfilename: sibling for sibling in info.siblings or []}
    names = files.chosen(stated)
    if files.CONFIG not in names:
        raise UserError(f"{name} holds no {files.CONFIG}: it is no checkpoint in transformers' format")
    if not any(one.endswith(".safetensors") for one in names):
        raise UserError(
            f"{name} has no safetensors, and pickled weights (.bin, .pt) are not supported: choose a checkpoint with safetensors"
        )
    check_space(staging, sum(int(stated[one].size or 0) for one in names if not (staging / one).is_file()))
    digests = {}
    for one in sorted(names, key=lambda one: (one.endswith(".safetensors"), one != files.CONFIG, one)):
        if not _is(staging / one, stated[one]):
            log(f"{one} ({(stated[one].size or 0) / 1e6:,.1f} MB)")
            with _sentences(name, revision):
                hf_hub_download(name, one, revision=commit, local_dir=staging)
            if not _is(staging / one, stated[one]):
                (staging / one).unlink()
                raise UserError(f"{name}: the sha of the downloaded {one} is not the one that the hub states: fetch the model again")
        digests[one] = digest_file(staging / one)
        if one == files.CONFIG:
            files.check_config(_config(staging, name), f"{name}/{one}")
    return digests, commit


def _config(staging: Path, name: str) -> dict[str, Any]:
    try:
        config = read_json(staging / files.CONFIG)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}/{files.CONFIG} is not valid JSON: the checkpoint is damaged") from error
    return config if isinstance(config, dict) else {}


def _is(path: Path, stated: Any) -> bool:
    """Whether a file is the one that the hub states: by sha256 for files in large storage, else by git's own digest."""
    if not path.is_file() or (stated.size is not None and path.stat().st_size != stated.size):
        return False
    if stated.lfs is not None:
        return digest_file(path) == str(stated.lfs.sha256)
    return stated.blob_id is None or _blob(path) == str(stated.blob_id)


def _blob(path: Path) -> str:
    state = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            state.update(block)
    return state.hexdigest()


@contextmanager
def _sentences(name: str, revision: str | None) -> Iterator[None]:
    """Turn errors of huggingface_hub into a UserError that says what to do."""
    from huggingface_hub import errors

    at = f" at {revision}" if revision else ""
    client_error: type[Exception] = errors.HfHubHTTPError.__bases__[0]  # of the HTTP client that this version of huggingface_hub uses
    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(f"{name} is gated: accept its terms on its page, then set HF_TOKEN to a token of that account") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{name} has no revision '{revision}': leave --revision out for the newest") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(f"{name} is not on the hub, or is private: check the id, and set HF_TOKEN for a private one") from error
    except errors.HFValidationError as error:
        raise UserError(f"{name} is no id of a model on the hub (owner/name)") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        raise UserError(f"the hub answered {status} for {name}{at}: fetch again later; the download will resume") from error
    except (client_error, errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"the hub can't be reached for {name}{at}: check the network or HF_ENDPOINT, or name a local folder; the download will resume"
        ) from error
