"""Notices are sent to a real receiver over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.checkout import Checkout
from components.config.ops import NoticeSettings
from components.operations.notices.notice import Notice
from components.operations.notices.send import JOURNAL, send, send_waiting
from components.processes.redaction import NOTICES
from tests.operations.notices.receiver import Receiver, receiving

SETTINGS = NoticeSettings(kinds=["promoted", "refused", "failed", "recovered", "missed"], late_minutes=30)
FAILED = Notice("failed", "nightly: stage align failed", "loss is NaN", {"stage": "align"})


@pytest.fixture(name="receiver")
def fixture_receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with receiving("path-token-1234") as receiver:
        monkeypatch.setenv(NOTICES, receiver.address)
        yield receiver


def journal(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / JOURNAL).read_text().splitlines()]


def test_notice_is_sent_and_written_to_journal(tmp_path: Path, receiver: Receiver) -> None:
    messages: list[str] = []

    send(Checkout(tmp_path), SETTINGS, FAILED, log=messages.append)

    assert [(entry["title"], entry["message"], entry["type"]) for entry in receiver.got] == [(FAILED.title, FAILED.text, "failure")]
    written, sent = journal(tmp_path)
    assert (written["kind"], written["title"], written["text"], written["facts"]) == (
        "failed",
        FAILED.title,
        FAILED.text,
        {"stage": "align"},
    )
    assert (sent["id"], sent["delivery"]) == (written["id"], "sent")
    assert messages == []
    assert not list(Checkout(tmp_path).notices.glob("*.json"))


def test_notice_shows_codes_of_control_characters(tmp_path: Path, receiver: Receiver) -> None:
    send(Checkout(tmp_path), SETTINGS, Notice("failed", "stage \x1b]0;x\x07", "row \u202egpj\nof \udcff", {"\x9b": ["\x00"]}))

    assert [(entry["title"], entry["message"]) for entry in receiver.got] == [("stage \\x1b]0;x\\x07", "row \\u202egpj\nof \\xff")]
    assert journal(tmp_path)[0]["facts"] == {"\\x9b": ["\\x00"]}


def test_unwanted_kind_is_written_but_not_sent(tmp_path: Path, receiver: Receiver) -> None:
    send(Checkout(tmp_path), NoticeSettings(kinds=["missed"], late_minutes=30), FAILED)

    assert receiver.got == []
    assert [entry["delivery"] for entry in journal(tmp_path)] == ["notices.kinds leaves it out"]


def test_notice_without_address_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NOTICES, raising=False)

    send(Checkout(tmp_path), SETTINGS, FAILED)

    assert [entry["delivery"] for entry in journal(tmp_path)] == ["MMALIGN_NOTICES names no address"]


def test_recovering_receiver_gets_notice_once(tmp_path: Path, receiver: Receiver) -> None:
    receiver.refusals = 2

    send(Checkout(tmp_path), SETTINGS, FAILED, pauses=(0.0, 0.0))

    assert receiver.tries == 3
    assert receiver.titles == [FAILED.title]


def test_unsent_notice_is_sent_before_next_one(tmp_path: Path, receiver: Receiver) -> None:
    receiver.status = 500
    messages: list[str] = []
    send(Checkout(tmp_path), SETTINGS, FAILED, log=messages.append, pauses=(0.0,))
    assert receiver.tries == 2
    assert len(messages) == 1
    assert "the next notice sends it too" in messages[0]
    assert journal(tmp_path)[-1]["delivery"].startswith("unsent: json")

    receiver.status = 200
    send(Checkout(tmp_path), SETTINGS, Notice("recovered", "nightly: recovered", "fine"), log=messages.append, pauses=())

    assert receiver.titles == [FAILED.title, "nightly: recovered"]
    assert send_waiting(Checkout(tmp_path)) == 0
    assert len(receiver.got) == 2
    assert len(messages) == 1


def test_silent_address_causes_no_duplicate_at_others(tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as other:
        other.status = 503
        monkeypatch.setenv(NOTICES, f"{receiver.address} {other.address}")
        send(Checkout(tmp_path), SETTINGS, FAILED, pauses=())
        assert (len(receiver.got), len(other.got)) == (1, 0)

        other.status = 200
        assert send_waiting(Checkout(tmp_path), pauses=()) == 0

        assert (len(receiver.got), len(other.got)) == (1, 1)


def test_unreadable_address_is_reported_without_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NOTICES, "nosuchservice://token-abcdef-123/x")
    messages: list[str] = []

    send(Checkout(tmp_path), SETTINGS, FAILED, log=messages.append, pauses=())

    assert "can't read" in messages[0]
    assert "token-abcdef" not in messages[0] + (tmp_path / JOURNAL).read_text()


def test_no_secret_is_sent_or_written(tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    from components.operations.services.state import create_secrets

    secrets = create_secrets(Checkout(tmp_path))
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "canary-token")
    text = f"password {secrets.postgres} token canary-token at postgresql://postgres:{secrets.postgres}@host/db, {receiver.address}"

    send(Checkout(tmp_path), SETTINGS, Notice("failed", f"about {secrets.prefect}", text, {"canary-token": [secrets.mlflow_password]}))
    receiver.status = 500
    send(Checkout(tmp_path), SETTINGS, FAILED, pauses=())

    written = "".join(path.read_text() for path in [tmp_path / JOURNAL, *Checkout(tmp_path).notices.glob("*.json")])
    for text in (json.dumps(receiver.got), written):
        for secret in (secrets.postgres, secrets.prefect, secrets.mlflow_password, "canary-token", "path-token-1234"):
            assert secret not in text
    assert "***" in receiver.got[0]["message"]


def test_unwritable_journal_raises_nothing(tmp_path: Path, receiver: Receiver) -> None:
    (tmp_path / "logs").write_text("a file in the way")
    messages: list[str] = []

    send(Checkout(tmp_path), SETTINGS, FAILED, log=messages.append)

    assert len(messages) == 1
    assert "could not be written" in messages[0]
    assert receiver.got == []
