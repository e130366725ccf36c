"""Notices are sent to a real receiver over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.config.notices import NoticeSettings
from components.operations.notices.notice import Notice
from components.operations.notices.send import JOURNAL, WAITING, send, send_waiting
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


def test_a_notice_arrives_and_is_kept(tmp_path: Path, receiver: Receiver) -> None:
    said: list[str] = []

    send(tmp_path, SETTINGS, FAILED, say=said.append)

    assert [(entry["title"], entry["message"], entry["type"]) for entry in receiver.got] == [(FAILED.title, FAILED.text, "failure")]
    kept, sent = journal(tmp_path)
    assert (kept["kind"], kept["title"], kept["text"], kept["facts"]) == ("failed", FAILED.title, FAILED.text, {"stage": "align"})
    assert (sent["id"], sent["delivery"]) == (kept["id"], "sent")
    assert said == []
    assert not list((tmp_path / WAITING).glob("*.json"))


def test_a_kind_that_the_settings_leave_out_is_kept_and_not_sent(tmp_path: Path, receiver: Receiver) -> None:
    send(tmp_path, NoticeSettings(kinds=["missed"], late_minutes=30), FAILED)

    assert receiver.got == []
    assert [entry["delivery"] for entry in journal(tmp_path)] == ["notices.kinds leaves it out"]


def test_without_an_address_a_notice_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NOTICES, raising=False)

    send(tmp_path, SETTINGS, FAILED)

    assert [entry["delivery"] for entry in journal(tmp_path)] == ["MMALIGN_NOTICES names no address"]


def test_a_receiver_that_comes_back_between_two_tries_gets_the_notice_once(tmp_path: Path, receiver: Receiver) -> None:
    receiver.refusals = 2

    send(tmp_path, SETTINGS, FAILED, pauses=(0.0, 0.0))

    assert receiver.tries == 3
    assert receiver.titles == [FAILED.title]


def test_what_could_not_be_sent_is_said_kept_and_sent_at_the_next_occasion_in_order(tmp_path: Path, receiver: Receiver) -> None:
    receiver.status = 500
    said: list[str] = []
    send(tmp_path, SETTINGS, FAILED, say=said.append, pauses=(0.0,))
    assert receiver.tries == 2
    assert len(said) == 1
    assert "next occasion" in said[0]
    assert journal(tmp_path)[-1]["delivery"].startswith("unsent: json")

    receiver.status = 200
    send(tmp_path, SETTINGS, Notice("recovered", "nightly: recovered", "fine"), say=said.append, pauses=())

    assert receiver.titles == [FAILED.title, "nightly: recovered"]
    assert send_waiting(tmp_path) == 0
    assert len(receiver.got) == 2
    assert len(said) == 1


def test_an_address_that_took_a_notice_does_not_get_it_again_for_another_that_is_away(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving() as other:
        other.status = 503
        monkeypatch.setenv(NOTICES, f"{receiver.address} {other.address}")
        send(tmp_path, SETTINGS, FAILED, pauses=())
        assert (len(receiver.got), len(other.got)) == (1, 0)

        other.status = 200
        assert send_waiting(tmp_path, pauses=()) == 0

        assert (len(receiver.got), len(other.got)) == (1, 1)


def test_an_address_that_can_t_be_read_is_said_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NOTICES, "nosuchservice://token-abcdef-123/x")
    said: list[str] = []

    send(tmp_path, SETTINGS, FAILED, say=said.append, pauses=())

    assert "can't be read" in said[0]
    assert "token-abcdef" not in said[0] + (tmp_path / JOURNAL).read_text()


def test_no_secret_is_sent_or_kept_and_the_address_is_in_no_file(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.operations.services.state import settle_secrets

    kept = settle_secrets(tmp_path)
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "canary-token")
    text = f"password {kept.postgres} token canary-token at postgresql://postgres:{kept.postgres}@host/db, {receiver.address}"

    send(tmp_path, SETTINGS, Notice("failed", f"about {kept.prefect}", text, {"canary-token": [kept.mlflow_password]}))
    receiver.status = 500
    send(tmp_path, SETTINGS, FAILED, pauses=())

    written = "".join(path.read_text() for path in [tmp_path / JOURNAL, *(tmp_path / WAITING).glob("*.json")])
    for told in (json.dumps(receiver.got), written):
        for secret in (kept.postgres, kept.prefect, kept.mlflow_password, "canary-token", "path-token-1234"):
            assert secret not in told
    assert "***" in receiver.got[0]["message"]


def test_a_journal_that_can_t_be_written_fails_nothing(tmp_path: Path, receiver: Receiver) -> None:
    (tmp_path / "logs").write_text("a file in the way")
    said: list[str] = []

    send(tmp_path, SETTINGS, FAILED, say=said.append)

    assert len(said) == 1
    assert "could not be kept" in said[0]
    assert receiver.got == []
