import pytest

from components.validation.personal import personal_data


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("Write to jane.doe+test@mail.example.org today.", {"email"}),
        ("Call +49 30 901820-99 or (212) 555-0147.", {"phone"}),
        ("555-867-5309", {"phone"}),
        ("My card is 4111 1111 1111 1111.", {"card"}),
        ("4111 1111 1111 1112", set()),  # its check digit is wrong
        ("0000 0000 0000 0000", set()),
        ("IBAN DE89 3704 0044 0532 0130 00", {"iban"}),
        ("IBAN DE89 3704 0044 0532 0130 01", set()),
        ("GB82WEST12345698765432", {"iban"}),
        ("The host is 8.8.8.8.", {"ip"}),
        ("It answers at 2001:4860:4860::8888", {"ip"}),
        ("127.0.0.1, 192.168.1.10 and version 1.2.3.999", set()),
        ("At 10:30:15 the sign said 12:45.", set()),
        ("In 1999 there were 3,141,592 people; order 20240131-17.", set()),
        ("a@b", set()),
    ],
)
def test_only_checked_numbers_and_addresses_are_flagged(text: str, kinds: set[str]) -> None:
    assert personal_data(text) == kinds
