from __future__ import annotations

import base64
import time
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.processes.redaction import NOTICES, PASSWORD_IN_ADDRESS, Redactor, redactor


@pytest.fixture(autouse=True)
def _no_keys_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("AWS_SHARED_CREDENTIALS_FILE", raising=False)


def test_longer_secret_is_removed_first() -> None:
    assert Redactor(["abcdef", "abcdef-ghijkl"]).clean("x abcdef-ghijkl y abcdef z") == "x *** y *** z"


def test_secret_in_url_or_header_is_removed() -> None:
    cleaner = Redactor(["pa/ss+word", "admin:pa/ss+word"])

    assert cleaner.clean("http://h/?p=pa%2Fss%2Bword") == "http://h/?p=***"
    assert cleaner.clean(f"Basic {base64.b64encode(b'admin:pa/ss+word').decode()}") == "Basic ***"


def test_secret_of_undecodable_bytes_is_removed() -> None:
    for secret in ("user:p\udcffssword", "user:p\ud800ssword"):
        assert Redactor([secret]).clean(f"it is {secret}.") == "it is ***."


def test_user_and_password_in_addresses_are_removed() -> None:
    text = "postgresql://me:se@cret@db:5432/x and https://token@github.com/a/b but https://example.org/@someone stays"

    assert Redactor([]).clean(text) == "postgresql://***@db:5432/x and https://***@github.com/a/b but https://example.org/@someone stays"


@pytest.mark.parametrize("name", ["DB_PASSWORD", "AWS_SECRET_ACCESS_KEY", "hf_token", "PREFECT_API_AUTH_STRING"])
def test_variables_with_telling_names_are_secret(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "canary-1")

    assert redactor(Checkout(tmp_path)).clean("it is canary-1.") == "it is ***."


def test_short_values_and_paths_are_not_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path))

    assert redactor(Checkout(tmp_path)).clean(f"false at {tmp_path}") == f"false at {tmp_path}"


def test_passwords_in_environment_addresses_are_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:canary-2@host/x")

    assert redactor(Checkout(tmp_path)).clean("password authentication failed: canary-2") == "password authentication failed: ***"


def test_service_passwords_are_secret_even_in_open_file(tmp_path: Path) -> None:
    from components.operations.services.state import create_secrets
    from components.processes.secrets import secrets_file

    secrets = create_secrets(Checkout(tmp_path))
    header = base64.b64encode(f"admin:{secrets.mlflow_password}".encode()).decode()
    text = f"{secrets.postgres} {secrets.prefect_auth} {secrets.supervisor} {header} admin"

    assert redactor(Checkout(tmp_path)).clean(text) == "*** *** *** *** admin"
    secrets_file(Checkout(tmp_path)).chmod(0o644)
    assert secrets.postgres not in redactor(Checkout(tmp_path)).clean(text)


def test_keys_in_dvc_and_aws_files_are_secret(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config.local").write_text("['remote \"s3\"']\n    url = s3://bucket\n    secret_access_key = canary-3\n")
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text("[default]\naws_secret_access_key = canary-4\n")

    assert redactor(Checkout(tmp_path)).clean("canary-3 canary-4 s3://bucket") == "*** *** s3://bucket"


def test_notice_addresses_are_secret_except_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NOTICES, "discord://webhook1/token-of-it, mailto://me:pass-word@example.org?to=boss@example.org")
    text = "POST https://discord.com/api/webhooks/webhook1/token-of-it; pass-word at example.org"

    assert redactor(Checkout(tmp_path)).clean(text) == "POST https://discord.com/api/webhooks/***; *** at example.org"


def test_nested_values_are_cleaned() -> None:
    assert Redactor(["canary"]).clean_all({"a": ["canary", 1, None], "canary": {"b": "x canary"}}) == {
        "a": ["***", 1, None],
        "***": {"b": "x ***"},
    }


def test_hostile_line_takes_time_by_its_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "longer-secret")
    cleaner = redactor(Checkout(tmp_path))
    for piece in ("a.", "a", "a://", "://a:", "a:", "x@", "://u:p@", "longer-secre"):
        line = piece * (1_000_000 // len(piece))
        began = time.process_time()
        cleaner.clean(line)
        PASSWORD_IN_ADDRESS.findall(line)
        assert time.process_time() - began < 3, piece  # squared it would take an hour
