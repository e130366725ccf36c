"""Removes secrets from texts that leave a process: notices, artifacts, logs.

These are secrets: the passwords of the checkout's services, environment variables with a telling name, keys in the files of DVC and AWS,
passwords in addresses (user:password@), and the addresses of notices with all their parts. The redactor removes a secret in plain form, in
its URL form, and in base64 as `user:password` travels in a header.
"""

from __future__ import annotations

import base64
import configparser
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from components.checkout import Checkout

NOTICES = "MMALIGN_NOTICES"  # addresses in apprise's form, separated by commas or white space
MASK = "***"
SHORTEST = 6  # characters; a shorter value would match inside plain words
NAMES = re.compile(r"PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|KEY|AUTH(?!OR)|CREDENTIAL", re.IGNORECASE)
# Both begin at "://", and end at the next slash: a hostile line takes them time in proportion to its length.
IN_ADDRESS = re.compile(r"://[^\s/'\"<>]+@")
PASSWORD_IN_ADDRESS = re.compile(r"://[^\s/:'\"<>]*:([^\s/'\"<>]+)@")


class Redactor:
    """Removes `values` from texts, and user and password from every address."""

    def __init__(self, values: Iterable[str]) -> None:
        forms = {form for value in values if len(value) >= SHORTEST for form in _forms(value)}
        longest_first = sorted(forms, key=len, reverse=True)  # else a secret that is part of another leaves the rest of it
        self._pattern = re.compile("|".join(re.escape(form) for form in longest_first)) if longest_first else None

    def clean(self, text: str) -> str:
        """The text without secrets."""
        if self._pattern is not None:
            text = self._pattern.sub(MASK, text)
        return IN_ADDRESS.sub(f"://{MASK}@", text)

    def clean_all(self, value: Any) -> Any:
        """Clean all texts in nested lists and mappings, keys included."""
        if isinstance(value, str):
            return self.clean(value)
        if isinstance(value, dict):
            return {self.clean(str(key)): self.clean_all(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.clean_all(inner) for inner in value]
        return value


def redactor(checkout: Checkout) -> Redactor:
    """The redactor of `checkout`, from its files and this process's environment."""
    return Redactor([*_of_services(checkout), *_of_environment(), *_of_notices(), *_of_files(checkout)])


def _forms(value: str) -> set[str]:
    content = _bytes(value)
    forms = {value, quote(content, safe=""), unquote(value), json.dumps(value)[1:-1]}
    if ":" in value:
        forms.add(base64.b64encode(content).decode())
    return {form for form in forms if len(form) >= SHORTEST}


def _bytes(value: str) -> bytes:
    """The bytes of a text; a value of the environment may be no UTF-8, and one of JSON half a pair of surrogates."""
    try:
        return value.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return value.encode(errors="replace")


def _of_services(checkout: Checkout) -> Iterator[str]:
    from components.errors import UserError
    from components.processes.secrets import read_secrets, secrets_file

    if not secrets_file(checkout).is_file():
        return
    try:
        secrets = read_secrets(checkout)
    except UserError:  # open to others, or damaged: its values are still secret
        yield from (str(value) for value in _strings(_json(secrets_file(checkout))))
        return
    yield from (value for name, value in asdict(secrets).items() if name != "mlflow_user")
    yield secrets.prefect_auth
    yield f"{secrets.mlflow_user}:{secrets.mlflow_password}"


def _of_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        if NAMES.search(name) and not _is_path(value):
            yield value
        yield from PASSWORD_IN_ADDRESS.findall(value)


def _is_path(value: str) -> bool:
    """Variables such as SSH_AUTH_SOCK hold a path, which is no secret."""
    return value.startswith("/") and Path(value).exists()


def _of_notices() -> Iterator[str]:
    """All parts of the notices' addresses but the host: chat services put their tokens anywhere in an address."""
    from urllib.parse import urlsplit

    for address in re.split(r"[\s,]+", os.environ.get(NOTICES, "")):
        if not address:
            continue
        yield address
        _, _, rest = address.partition("://")
        yield rest
        try:
            host = urlsplit(address).hostname or ""
        except ValueError:
            host = ""
        public = {host} if "." in host or host == "localhost" else set()
        yield from (part for part in re.split(r"[/?&=:@]", rest) if part not in public and not part.isdecimal())


def _of_files(checkout: Checkout) -> Iterator[str]:
    """Keys in the files of DVC and boto3."""
    aws = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or Path.home() / ".aws" / "credentials")
    for path in (checkout.dvc / "config", checkout.dvc / "config.local", aws):
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            parser.read_string(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, configparser.Error):
            continue  # missing, or unreadable for DVC and boto3 too
        for section in parser.sections():
            yield from (value.strip("\"'") for name, value in parser.items(section) if NAMES.search(name))


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (inner for name, inner in value.items() if isinstance(inner, str) and name != "mlflow_user")
