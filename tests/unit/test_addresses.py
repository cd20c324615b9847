"""Addresses as they may be told: never a user, a password or a query."""

import pytest

from manta.addresses import HIDDEN, shown_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://api.example.com/v1", "https://api.example.com/v1"),
        ("http://127.0.0.1:8001/v1", "http://127.0.0.1:8001/v1"),
        ("http://[::1]:8001/v1", "http://[::1]:8001/v1"),
        ("https://u:p@h/v1", "https://h/v1"),
        ("https://u:p@ss@h:80/v1", "https://h:80/v1"),
        ("https://h/v1?key=secret", "https://h/v1"),
        ("https://h/v1#secret", "https://h/v1"),
        ("https://u:pa/ss@h/v1", HIDDEN),
        ("https://u:80/ss@h/v1", HIDDEN),
        ("u:p@h/v1", HIDDEN),
        ("http://[h/v1", HIDDEN),
        ("http://h:99999/v1", HIDDEN),
        ("secret", HIDDEN),
        ("", HIDDEN),
    ],
)
def test_what_is_shown_of_an_address(url: str, shown: str):
    assert shown_url(url) == shown
