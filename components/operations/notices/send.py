"""Sends notices, and never loses or fails over one.

- A notice is kept first: one line in logs/notices.jsonl, whatever its kind, and a file in `.mmalign/notices` while it waits to be sent.
- Each address is served by itself, so that one that is away does not make the others get the same notice twice. What still has to be served
  is kept by a digest of the address, since addresses hold passwords.
- What can't be sent after a few tries waits for the next occasion: the next notice, or the services' sentinel, which looks by itself.
- A kill between sending and noting it sends a notice twice; none is lost.
"""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from components.files import digest_bytes, read_json, write_json
from components.operations.notices.notice import Notice
from components.processes.redaction import NOTICES, Redactor, redactor

if TYPE_CHECKING:
    from components.config.notices import NoticeSettings

JOURNAL = Path("logs") / "notices.jsonl"
WAITING = Path(".mmalign") / "notices"
LOCK = Path(".mmalign") / "locks" / "notices.lock"
PAUSES = (2.0, 10.0)  # seconds between tries at one address
TITLE_CHARACTERS, TEXT_CHARACTERS = 200, 3500  # what every chat service takes in one message

Say = Callable[[str], None]


def send(root: Path, settings: NoticeSettings, notice: Notice, *, say: Say = print, pauses: Sequence[float] = PAUSES) -> None:
    """Keep a notice, and send it and what waits from before, to the addresses of MMALIGN_NOTICES. Raises nothing: what is wrong is said."""
    try:
        keep(root, settings, notice)
        send_waiting(root, say=say, pauses=pauses)
    except Exception as error:  # noqa: BLE001 -- no notice may fail a run
        say(f"the notice '{notice.title}' could not be kept ({type(error).__name__}: {' '.join(str(error).split())[:200]})")


def keep(root: Path, settings: NoticeSettings, notice: Notice) -> None:
    """Write a notice down, without secrets; it waits to be sent where its kind is one of those and there is an address."""
    known = redactor(root)
    told = known.clean_all(asdict(notice))
    entry = {"id": uuid.uuid4().hex, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **told}
    waiting = [_name(address) for address in addresses()] if notice.kind in settings.kinds else []
    if waiting:
        write_json(root / WAITING / f"{time.time_ns()}-{entry['id']}.json", {**entry, "waiting": waiting})
    why = "to be sent" if waiting else f"{NOTICES} names no address" if notice.kind in settings.kinds else "notices.kinds leaves it out"
    _note(root, {**entry, "delivery": why})


def send_waiting(root: Path, *, say: Say = print, pauses: Sequence[float] = PAUSES) -> int:
    """Send what waits, oldest first; the number of notices that still wait. One process of a checkout at a time."""
    if not any((root / WAITING).glob("*.json")):
        return 0
    (root / LOCK).parent.mkdir(parents=True, exist_ok=True)
    known = redactor(root)
    named = {_name(address): address for address in addresses()}
    dead: dict[str, str] = {}  # addresses that were tried in vain just now, and why: the next notice need not wait for them again
    left = 0
    with FileLock(root / LOCK):
        for file in sorted((root / WAITING).glob("*.json")):
            left += not _deliver(root, file, named, dead, known, pauses)
    for why in dead.values():
        say(f"a notice could not be sent: {why}; it is kept in {JOURNAL} and sent at the next occasion")
    return left


def addresses() -> list[str]:
    """The addresses of MMALIGN_NOTICES."""
    text = os.environ.get(NOTICES, "")
    if not text.strip():
        return []
    from apprise.utils.parse import parse_urls

    return [str(address) for address in parse_urls(text)]  # type: ignore[no-untyped-call]


def _deliver(root: Path, file: Path, named: dict[str, str], dead: dict[str, str], known: Redactor, pauses: Sequence[float]) -> bool:
    """Send one notice to the addresses that it waits for; whether nothing of it waits any more."""
    entry = read_json(file)
    waiting = [name for name in entry["waiting"] if name in named]  # an address that was taken out gets nothing any more
    for name in list(waiting):
        if name not in dead:
            failure = _try(named[name], entry["title"], entry["text"], entry["kind"], known, pauses)
            if failure is None:
                waiting.remove(name)
                write_json(file, {**entry, "waiting": waiting})
            else:
                dead[name] = failure
    delivery = "sent" if not waiting else "unsent: " + "; ".join(dead[name] for name in waiting)
    if not waiting:
        file.unlink()
    if entry.get("delivery") != delivery:  # the same failure is noted once
        _note(root, {"id": entry["id"], "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "delivery": delivery})
        if waiting:
            write_json(file, {**entry, "waiting": waiting, "delivery": delivery})
    return not waiting


def _try(address: str, title: str, text: str, kind: str, known: Redactor, pauses: Sequence[float]) -> str | None:
    """Send to one address; None, or why it could not be done, without the address."""
    import apprise

    logging.getLogger("apprise").propagate = False  # what it would say on the screen holds addresses
    asset = apprise.AppriseAsset(app_id="mmalign", app_desc="mmalign")
    service = apprise.Apprise.instantiate(address, asset=asset)
    scheme = known.clean(address.partition("://")[0])
    if service is None:
        return f"an address of {NOTICES} ({scheme}) can't be read: see apprise's list of services for its form"
    levels: dict[str, Any] = {"promoted": apprise.NotifyType.SUCCESS, "recovered": apprise.NotifyType.INFO}
    level = levels.get(kind, apprise.NotifyType.WARNING if kind == "refused" else apprise.NotifyType.FAILURE)
    sender = apprise.Apprise(asset=asset)
    sender.add(service)
    for pause in (*pauses, None):
        with apprise.LogCapture(level=logging.WARNING) as captured:  # type: ignore[no-untyped-call]
            sent = sender.notify(
                body=_cut(text or title, TEXT_CHARACTERS), title=_cut(title, TITLE_CHARACTERS), notify_type=level, body_format="text"
            )
            said = " ".join(captured.getvalue().split())
        if sent:
            return None
        if pause is not None:
            time.sleep(pause)
    return known.clean(f"{scheme}: {said[-300:] or 'it was not taken'}")


def _note(root: Path, entry: dict[str, Any]) -> None:
    path = root / JOURNAL
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as stream:  # one write: lines of two processes don't mix
        stream.write((json.dumps(entry, ensure_ascii=False, sort_keys=True) + "\n").encode())
        stream.flush()
        os.fsync(stream.fileno())


def _name(address: str) -> str:
    return digest_bytes(address)[:16]


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
