"""Flags what looks like personal data in a row's texts: rows with them are counted and shown, and none is refused.

A number counts as a card or an account only if its check digits are right (Luhn; ISO 13616), an address only if it can be one of the Internet.
"""

from __future__ import annotations

import ipaddress
import re

KINDS = ("email", "phone", "card", "iban", "ip")

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}(?![\w@-])")
# With a country's code, or in groups as North America writes them. Bare digits are no phone number: they may be anything.
_PHONE = re.compile(r"(?<![\w+])(?:\+[1-9]\d{0,2}(?:[ ./-]?\(?\d{1,4}\)?){2,6}|\(\d{3}\) ?\d{3}-\d{4}|\d{3}-\d{3}-\d{4})(?![\w-])")
_PAYMENT = re.compile(r"(?<![\w-])(?<![A-Z]{2}\d{2} )[2-6](?:[ -]?\d){12,18}(?![\w-])")
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)")
_IP = re.compile(r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7})(?![\w.:]*\w)")
_DIGIT = re.compile(r"\d")
MIN_PHONE_DIGITS = 8


def personal_data(text: str) -> set[str]:
    """The kinds of personal data in a text, by KINDS."""
    kinds = {"email"} if "@" in text and _EMAIL.search(text) else set()
    if _DIGIT.search(text) is None:
        return kinds
    if any(len(_digits(match[0])) >= MIN_PHONE_DIGITS for match in _PHONE.finditer(text)):
        kinds.add("phone")
    if any(_luhn(_digits(match[0])) for match in _PAYMENT.finditer(text)):
        kinds.add("card")
    if any(_iban(match[0].replace(" ", "")) for match in _IBAN.finditer(text)):
        kinds.add("iban")
    if any(_public(match[0]) for match in _IP.finditer(text)):
        kinds.add("ip")
    return kinds


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


def _luhn(digits: str) -> bool:
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return len(set(digits)) > 1 and (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def _iban(account: str) -> bool:
    rearranged = account[4:] + account[:4]
    return int("".join(str(int(character, 36)) for character in rearranged)) % 97 == 1


def _public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False
