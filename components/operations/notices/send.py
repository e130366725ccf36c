"""Sends notices. It loses none, and no failure to send fails a run.

- Every notice is first written down: as a line in logs/notices.jsonl, and as a file in `.mmalign/notices` while it waits.
- Each address has its own state, so a silent address does not make the others receive a notice twice. Files name an address by its digest,
  since addresses hold passwords.
- A notice that fails after a few tries waits for the next notice, or for the services' monitor.
- A kill between sending and writing that down sends a notice twice.
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

from components.checkout import Checkout
from components.files import digest_bytes, read_json, write_json
from components.operations.notices.notice import Notice
from components.printable import printable_all
from components.processes.redaction import NOTICES, Redactor, redactor

if TYPE_CHECKING:
    from components.config.ops import NoticeSettings

JOURNAL = Path("logs") / "notices.jsonl"
PAUSES = (2.0, 10.0)  # seconds between tries at one address
TITLE_CHARACTERS, TEXT_CHARACTERS = 200, 3500  # every chat service accepts this much in one message

Log = Callable[[str], None]


def send(checkout: Checkout, settings: NoticeSettings, notice: Notice, *, log: Log = print, pauses: Sequence[float] = PAUSES) -> None:
    """Write down a notice; then send it and all waiting ones to the addresses of MMALIGN_NOTICES. Logs failures and raises nothing."""
    try:
        keep(checkout, settings, notice)
        send_waiting(checkout, log=log, pauses=pauses)
    except Exception as error:  # noqa: BLE001 -- no notice may fail a run
        log(f"the notice '{notice.title}' could not be written ({type(error).__name__}: {' '.join(str(error).split())[:200]})")


def keep(checkout: Checkout, settings: NoticeSettings, notice: Notice) -> None:
    """Write down a notice, without secrets. It waits for sending if the settings name its kind and there is an address."""
    values = asdict(notice)
    values["facts"] = values.pop("details")  # the key that readers of the journal expect
    cleaned = printable_all(redactor(checkout).clean_all(values))
    entry = {"id": uuid.uuid4().hex, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **cleaned}
    waiting = [_name(address) for address in addresses()] if notice.kind in settings.kinds else []
    if waiting:
        write_json(checkout.notices / f"{time.time_ns()}-{entry['id']}.json", {**entry, "waiting": waiting})
    why = "to be sent" if waiting else f"{NOTICES} names no address" if notice.kind in settings.kinds else "notices.kinds leaves it out"
    _note(checkout, {**entry, "delivery": why})


def send_waiting(checkout: Checkout, *, log: Log = print, pauses: Sequence[float] = PAUSES) -> int:
    """Send the waiting notices, oldest first; returns how many still wait. A lock admits one process of a checkout at a time."""
    if not any(checkout.notices.glob("*.json")):
        return 0
    (checkout.locks / "notices.lock").parent.mkdir(parents=True, exist_ok=True)
    cleaner = redactor(checkout)
    named = {_name(address): address for address in addresses()}
    dead: dict[str, str] = {}  # addresses that failed just now, with the reason: the next notice skips them
    left = 0
    with FileLock(checkout.locks / "notices.lock"):
        for file in sorted(checkout.notices.glob("*.json")):
            left += not _deliver(checkout, file, named, dead, cleaner, pauses)
    for why in dead.values():
        log(f"a notice could not be sent: {why}; {JOURNAL} keeps it, and the next notice sends it too")
    return left


def addresses() -> list[str]:
    """The addresses of MMALIGN_NOTICES."""
    text = os.environ.get(NOTICES, "")
    if not text.strip():
        return []
    from apprise.utils.parse import parse_urls

    return [str(address) for address in parse_urls(text)]  # type: ignore[no-untyped-call]


def _deliver(
    checkout: Checkout, file: Path, named: dict[str, str], dead: dict[str, str], cleaner: Redactor, pauses: Sequence[float]
) -> bool:
    """Send one notice to its waiting addresses. Returns whether all have received it."""
    entry = read_json(file)
    waiting = [name for name in entry["waiting"] if name in named]  # addresses that left MMALIGN_NOTICES get nothing
    for name in list(waiting):
        if name not in dead:
            failure = _try(named[name], entry["title"], entry["text"], entry["kind"], cleaner, pauses)
            if failure is None:
                waiting.remove(name)
                write_json(file, {**entry, "waiting": waiting})
            else:
                dead[name] = failure
    delivery = "sent" if not waiting else "unsent: " + "; ".join(dead[name] for name in waiting)
    if not waiting:
        file.unlink()
    if entry.get("delivery") != delivery:  # the journal names the same failure once
        _note(checkout, {"id": entry["id"], "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "delivery": delivery})
        if waiting:
            write_json(file, {**entry, "waiting": waiting, "delivery": delivery})
    return not waiting


def _try(address: str, title: str, text: str, kind: str, cleaner: Redactor, pauses: Sequence[float]) -> str | None:
    """Send to one address. Returns None, or the failure without the address."""
    import apprise

    logging.getLogger("apprise").propagate = False  # its messages on the console contain addresses
    asset = apprise.AppriseAsset(app_id="mmalign", app_desc="mmalign")
    service = apprise.Apprise.instantiate(address, asset=asset)
    scheme = cleaner.clean(address.partition("://")[0])
    if service is None:
        return f"apprise can't read an address of {NOTICES} ({scheme}): write it in a form of apprise's list of services"
    levels: dict[str, Any] = {"promoted": apprise.NotifyType.SUCCESS, "recovered": apprise.NotifyType.INFO}
    level = levels.get(kind, apprise.NotifyType.WARNING if kind == "refused" else apprise.NotifyType.FAILURE)
    sender = apprise.Apprise(asset=asset)
    sender.add(service)
    for pause in (*pauses, None):
        with apprise.LogCapture(level=logging.WARNING) as captured:  # type: ignore[no-untyped-call]
            sent = sender.notify(
                body=_cut(text or title, TEXT_CHARACTERS), title=_cut(title, TITLE_CHARACTERS), notify_type=level, body_format="text"
            )
            message = " ".join(captured.getvalue().split())
        if sent:
            return None
        if pause is not None:
            time.sleep(pause)
    return cleaner.clean(f"{scheme}: {message[-300:] or 'the service refused it'}")


def _note(checkout: Checkout, entry: dict[str, Any]) -> None:
    path = checkout.root / JOURNAL
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as stream:  # one write, so that lines of two processes don't mix
        stream.write((json.dumps(entry, ensure_ascii=False, sort_keys=True) + "\n").encode())
        stream.flush()
        os.fsync(stream.fileno())


def _name(address: str) -> str:
    return digest_bytes(address)[:16]


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
