"""The base model lies in its folder, whole. Lengths are compared, bytes are not: that is `mmalign model verify`."""

from __future__ import annotations

from pathlib import Path

from components.checkout import IN_CHECKOUT
from components.config.profiles import HUB_ID, PROFILES, checkpoint_of
from components.errors import UserError
from components.families.hub.fetch import MODELS
from components.families.hub.files import check_folder
from components.families.hub.manifest import MANIFEST, read_manifest
from components.files import read_json
from components.operations.doctor.findings import Finding, ok, problem
from components.operations.preconditions.situation import Situation

# Files of a checkpoint that dvc.yaml names one by one.
STAGE_FILES = ("config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
OTHER_BASE = "set model.base to a checkpoint as save_pretrained writes it (mmalign configure --set model.base=FOLDER)"


def base_model(situation: Situation) -> Finding:
    """The checkpoint of `model.base` is complete: its configuration, its processor files, and weights as long as their headers say."""
    base = situation.settings.model.base
    folder = situation.checkout.root / base
    if not folder.is_dir() or not any(folder.iterdir()):
        return _missing(situation, base, folder)
    try:
        check_folder(folder, str(base))
        manifest = read_manifest(folder)
    except UserError as error:
        return problem(str(error), _restored(situation, base, folder))
    for name, entry in (manifest or {"files": {}})["files"].items():
        present = (folder / name).stat().st_size if (folder / name).is_file() else None
        if present != entry["bytes"]:
            words = "is missing" if present is None else f"has {present:,} bytes"
            return problem(
                f"{base}/{name} {words}, and its fetch wrote {entry['bytes']:,} ({MANIFEST})", _restored(situation, base, folder)
            )
    lacking = [name for name in STAGE_FILES if not (folder / name).is_file()]
    if lacking:
        return problem(f"{base} lacks {', '.join(lacking)}", _restored(situation, base, folder) if manifest else OTHER_BASE)
    family = read_json(folder / "config.json")["model_type"]
    return ok(f"{base}: {family}, {sum(path.stat().st_size for path in folder.glob('*.safetensors')) / 1e6:,.0f} MB of safetensors")


def fetch_command(situation: Situation, folder: Path | None = None) -> str | None:
    """The command that brings `model.base`: of the id that the base's own manifest names, or a profile; None where neither does."""
    base = situation.settings.model.base
    try:
        manifest = read_manifest(folder) if folder is not None else None
    except UserError:
        manifest = None
    source = str(manifest["source"]) if manifest is not None else ""
    identity = source if HUB_ID.fullmatch(source) else checkpoint_of(situation.checkout.root / PROFILES, base)
    if identity is None:
        return None
    return f"mmalign model fetch {identity}" + ("" if base == MODELS / identity.split("/")[1] else f" --to {base}")


def _missing(situation: Situation, base: Path, folder: Path) -> Finding:
    if situation.arrives(base.as_posix()):
        return ok(f"{base} comes with the data, which the run fetches first")
    command = fetch_command(situation)
    if command is None:
        return problem(
            f"the checkpoint of model.base, {base}, is missing",
            f"mmalign model fetch ID --to {base}, where ID is its name on the hub (owner/name) or a folder; or {OTHER_BASE}",
        )
    if folder.with_name(f"{folder.name}.partial").is_dir():
        return problem(f"the fetch of model.base, {base}, stopped before its end", f"resume it with `{command}`")
    return problem(f"the checkpoint of model.base, {base}, is missing", f"fetch it with `{command}`")


def _restored(situation: Situation, base: Path, folder: Path) -> str:
    """The cure of a damaged checkpoint."""
    command = fetch_command(situation, folder)
    if command is not None:
        return f"rm -r {base} && {command}"
    if base.parts[0] == IN_CHECKOUT.data.name and situation.data is not None and situation.data.version is not None:
        return f"rm -r {base} && dvc checkout {base}; or {OTHER_BASE}"
    return OTHER_BASE
