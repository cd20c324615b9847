"""One webhook: where it may go, how it is signed (as Standard Webhooks asks), what an answer means."""

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpcore
import httpx

from manta.config import WebhookSettings, secret
from manta.errors import BlockedAddress, InvalidConfig, InvalidInput, MantaError
from tools.netguard import AddressGuard, GuardedTransport

MAX_CONNECTIONS = 128
TIMEOUT_S = 10.0
MAX_URL = 2048
_FIRST_DELAY_S = 5.0
_GROWTH = 5.0
_LONGEST_DELAY_S = 6 * 3600.0
_LOST = (httpx.HTTPError, httpcore.NetworkError, httpcore.ProtocolError, OSError)
_LATE = (TimeoutError, httpx.TimeoutException, httpcore.TimeoutException)


def check_url(url: str) -> None:
    """Raises InvalidInput for what cannot be called."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError, ValueError, TypeError) as error:
        raise InvalidInput(f"this is no URL: {error}", fix="use http://... or https://...") from error
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo or len(url) > MAX_URL:
        raise InvalidInput(
            f"{url[:100]!r} cannot be a webhook",
            fix=f"use http or https, a host, no user name, at most {MAX_URL} characters",
        )


def next_delay(error: MantaError, begun: int, attempts: int, jitter: random.Random) -> float | None:
    """Seconds until another try after the `begun`-th one of `attempts` failed; None gives up."""
    if not error.retryable or begun >= attempts:
        return None
    longest = min(_LONGEST_DELAY_S, _FIRST_DELAY_S * _GROWTH ** (begun - 1))
    return jitter.uniform(longest / 2, longest)


def refusal(status: int) -> MantaError | None:
    """What a receiver's answer means; None is success."""
    if 200 <= status < 300:
        return None
    error = MantaError(f"the receiver answered {status}", fix="see its log", code="webhook_refused")
    # 410 is how a receiver says that it wants no more of them.
    error.retryable = status != 410
    return error


def signing_keys(
    settings: WebhookSettings, environment: Mapping[str, str] | None = None
) -> tuple[bytes, ...]:
    """The keys in the variable that the settings name: `whsec_` and base64, several separated by spaces while
    they are being changed. None when no variable is named.

    Raises:
        InvalidConfig: the variable is not set, or holds no such key.
    """
    if not settings.secret_env:
        return ()
    try:
        words = secret(settings.secret_env, environment).split()
        keys = tuple(base64.b64decode(word.removeprefix("whsec_"), validate=True) for word in words)
    except (binascii.Error, ValueError):
        keys = ()
    if not keys or not all(keys):
        raise InvalidConfig(
            f"{settings.secret_env} does not hold a webhook secret",
            fix='set it to whsec_ and base64: echo "whsec_$(openssl rand -base64 32)"',
        )
    return keys


def signed_headers(message: str, moment: float, body: bytes, keys: Collection[bytes]) -> dict[str, str]:
    """The headers of Standard Webhooks; `moment` is this try's, in seconds since the epoch."""
    stamp = str(int(moment))
    headers = {"webhook-id": message, "webhook-timestamp": stamp}
    if keys:
        content = b".".join((message.encode(), stamp.encode(), body))
        digests = (hmac.digest(key, content, hashlib.sha256) for key in keys)
        headers["webhook-signature"] = " ".join(f"v1,{base64.b64encode(d).decode()}" for d in digests)
    return headers


@dataclass(frozen=True, slots=True)
class HookGuard(AddressGuard):
    """`hosts` may be anywhere and listen on any port; `*` among them is every host."""

    hosts: frozenset[str] = frozenset()

    def check(self, host: str, address: str, port: int) -> None:
        if "*" in self.hosts or host.lower() in self.hosts:
            return
        try:
            AddressGuard.check(self, host, address, port)
        except BlockedAddress as error:
            fix = f"webhooks.allowed_hosts: [{host}] in manta.yaml"
            raise BlockedAddress(error.message, fix=fix) from None


class Sender:
    """Posts to receivers. Only what `settings` allows is reached, and no redirect is followed."""

    def __init__(
        self, settings: WebhookSettings, keys: Sequence[bytes] = (), *, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._guard = HookGuard(hosts=frozenset(host.lower() for host in settings.allowed_hosts))
        self._keys = keys
        self._timeout_s = timeout_s
        self._client: httpx.AsyncClient | None = None

    async def post(self, url: str, message: str, moment: float, content: Any) -> None:
        """Raises MantaError unless the receiver took it; `retryable` when it may yet."""
        check_url(url)
        body = json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
        headers = {"content-type": "application/json", "user-agent": "manta-webhook/1"}
        headers |= signed_headers(message, moment, body, self._keys)
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._open().stream("POST", url, content=body, headers=headers) as answer,
            ):
                refused = refusal(answer.status_code)
        except _LATE as error:
            raise passing(f"no answer within {self._timeout_s:g} s", "webhook_timeout") from error
        except _LOST as error:
            cause = str(error) or type(error).__name__
            raise passing(f"the receiver cannot be reached: {cause}", "webhook_unreachable") from error
        if refused is not None:
            raise refused

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    def _open(self) -> httpx.AsyncClient:
        if self._client is None:
            # trust_env off: a proxy from the environment would do the look-up instead of the guard.
            transport = GuardedTransport(self._guard, max_connections=MAX_CONNECTIONS)
            self._client = httpx.AsyncClient(transport=transport, trust_env=False, timeout=self._timeout_s)
        return self._client


def passing(cause: str, code: str) -> MantaError:
    """An error after which another try may succeed."""
    error = MantaError(cause, fix="it is tried again; see the receiver's log", code=code)
    error.retryable = True
    return error
