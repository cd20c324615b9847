"""One webhook: its signature, its address, what an answer means, how long until another try."""

import base64
import random
import time
from typing import Any

import pytest

from coordinator.webhook_post import (
    HookGuard,
    Sender,
    check_url,
    next_delay,
    passing,
    refusal,
    signed_headers,
    signing_keys,
)
from manta.config import WebhookSettings
from manta.errors import BlockedAddress, InvalidConfig, InvalidInput, MantaError
from tests.coordinator.receiver import receiver
from tests.docs.pages import blocks

HERE = WebhookSettings(allowed_hosts=("127.0.0.1", "LocalHost"))
SIGNED = WebhookSettings(secret_env="HOOK_SECRET")
# The example of the Standard Webhooks reference libraries.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE, MOMENT, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330.7, b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_signature_is_that_of_the_reference():
    keys = signing_keys(SIGNED, {"HOOK_SECRET": SECRET})
    headers = signed_headers(MESSAGE, MOMENT, BODY, keys)
    assert headers == {
        "webhook-id": MESSAGE,
        "webhook-timestamp": "1614265330",
        "webhook-signature": SIGNATURE,
    }


def test_while_keys_change_both_sign():
    other = "whsec_" + base64.b64encode(b"x" * 32).decode()
    keys = signing_keys(SIGNED, {"HOOK_SECRET": f"{other} {SECRET}"})
    first, second = signed_headers(MESSAGE, MOMENT, BODY, keys)["webhook-signature"].split(" ")
    assert (first.startswith("v1,"), second) == (True, SIGNATURE)


def test_the_page_shows_how_to_check_it(monkeypatch: pytest.MonkeyPatch):
    shown: dict[str, Any] = {}
    [code] = [block.text for block in blocks("python") if "def is_genuine" in block.text]
    exec(code, shown)
    is_genuine = shown["is_genuine"]
    headers = signed_headers(MESSAGE, MOMENT, BODY, signing_keys(SIGNED, {"HOOK_SECRET": SECRET}))

    monkeypatch.setattr(time, "time", lambda: MOMENT + 299)
    assert is_genuine(headers, BODY, SECRET)
    assert is_genuine(headers | {"webhook-signature": f"v1,other {SIGNATURE}"}, BODY, SECRET)
    assert not is_genuine(headers, BODY + b" ", SECRET)
    assert not is_genuine(headers | {"webhook-id": "other"}, BODY, SECRET)
    assert not is_genuine(headers, BODY, "whsec_" + base64.b64encode(b"x" * 32).decode())
    monkeypatch.setattr(time, "time", lambda: MOMENT + 302)
    assert not is_genuine(headers, BODY, SECRET)


def test_without_a_variable_nothing_is_signed():
    assert signing_keys(WebhookSettings(), {}) == ()
    assert "webhook-signature" not in signed_headers(MESSAGE, MOMENT, BODY, ())


@pytest.mark.parametrize("value", ["", " ", "whsec_", "whsec_###", "whsec_abc"])
def test_a_secret_of_no_use_is_refused(value: str):
    with pytest.raises(InvalidConfig) as refused:
        signing_keys(SIGNED, {"HOOK_SECRET": value})
    assert "HOOK_SECRET" in refused.value.message


@pytest.mark.parametrize("status", [200, 202, 204, 299])
def test_success(status: int):
    assert refusal(status) is None


@pytest.mark.parametrize(
    ("status", "again"), [(302, True), (400, True), (404, True), (410, False), (503, True)]
)
def test_a_refusal_may_pass_unless_the_receiver_is_gone(status: int, again: bool):
    error = refusal(status)
    assert error is not None
    assert (error.retryable, str(status) in error.message) == (again, True)


def test_the_pauses_grow_and_end():
    jitter = random.Random(1)
    error = passing("x", "y")
    delays = [next_delay(error, begun, 8, jitter) for begun in range(1, 9)]
    assert delays[7] is None
    bounds = [5, 25, 125, 625, 3125, 15_625, 21_600]
    for delay, longest in zip(delays, bounds, strict=False):
        assert longest / 2 <= delay <= longest
    assert len({next_delay(error, 3, 8, jitter) for _ in range(5)}) == 5
    assert next_delay(MantaError("no"), 1, 8, jitter) is None


@pytest.mark.parametrize(
    "url",
    ["", "x", "ftp://h/", "http://", "//h/x", "http://a:b@h/", "http://[::1", "http://h/" + "x" * 2048, "file:///etc/passwd"],
)  # fmt: skip
def test_a_url_of_no_use_is_refused(url: str):
    with pytest.raises(InvalidInput):
        check_url(url)


@pytest.mark.parametrize("url", ["http://h", "https://h:8443/a?b=c#d", "https://xn--hxa/", "http://[::1]/"])
def test_other_urls_are_taken(url: str):
    check_url(url)


def test_the_guard_lets_named_hosts_be_anywhere():
    guard = HookGuard(hosts=frozenset({"inside"}))
    guard.check("Inside", "10.0.0.1", 8080)
    guard.check("outside", "93.184.216.34", 443)
    for host, address, port in (
        ("other", "10.0.0.1", 80),
        ("inside.evil", "127.0.0.1", 80),
        ("o", "93.184.216.34", 22),
    ):
        with pytest.raises(BlockedAddress) as refused:
            guard.check(host, address, port)
        assert "allowed_hosts" in refused.value.fix
    HookGuard(hosts=frozenset({"*"})).check("any", "127.0.0.1", 1)


async def test_a_post_is_json_and_signed():
    with receiver() as there:
        sender = Sender(HERE, signing_keys(SIGNED, {"HOOK_SECRET": SECRET}))
        await sender.post(there.url("/ok?x=1", "localhost"), MESSAGE, MOMENT, {"run_id": "r", "n": [1]})
        await sender.close()
        [came] = there.received
    assert (came.path, came.body) == ("/ok?x=1", b'{"run_id":"r","n":[1]}')
    expected = signed_headers(MESSAGE, MOMENT, came.body, signing_keys(SIGNED, {"HOOK_SECRET": SECRET}))
    assert {name: came.headers[name] for name in expected} == expected
    assert came.headers["content-type"] == "application/json"


async def trouble(url: str, settings: WebhookSettings = HERE, timeout_s: float = 30) -> MantaError:
    sender = Sender(settings, timeout_s=timeout_s)
    with pytest.raises(MantaError) as failed:
        await sender.post(url, MESSAGE, MOMENT, {})
    await sender.close()
    return failed.value


async def test_a_redirect_is_not_followed():
    with receiver() as there:
        error = await trouble(there.url("/moved"))
        assert (error.code, error.retryable, there.paths()) == ("webhook_refused", True, ["/moved"])


async def test_a_private_address_is_not_called():
    with receiver() as there:
        for host in ("127.0.0.1", "localhost", "127.1"):
            error = await trouble(there.url("/ok", host), WebhookSettings(allowed_hosts=("elsewhere",)))
            assert (error.code, error.retryable) == ("blocked_address", False)
        assert there.received == []


async def test_a_receiver_that_does_not_answer_is_given_up():
    with receiver() as there:
        error = await trouble(there.url("/hang"), timeout_s=0.2)
        assert (error.code, error.retryable) == ("webhook_timeout", True)


async def test_a_receiver_that_is_not_there_may_come_back():
    with receiver() as there:
        url = there.url("/ok")
    for gone in (url, "http://no-such-host.invalid/"):
        error = await trouble(gone, WebhookSettings(allowed_hosts=("*",)))
        assert (error.code, error.retryable) == ("webhook_unreachable", True)
