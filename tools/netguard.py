"""Keep fetches on the public internet: names are resolved once, every address is checked, and the connection
goes to the checked address itself, so that a second look-up cannot answer something else.

The name in the URL is never judged: '2130706433', '0x7f.1' and a name that points home all look harmless.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import httpcore
import httpx

from manta.errors import BlockedAddress

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# What ipaddress calls global although it is not, or although it carries an IPv4 address of unknown kind.
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(text)
    for text in (
        "192.0.0.0/24", "192.88.99.0/24", "fec0::/10", "::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16",
        "2001::/23", "100::/64", "5f00::/16",
    )
)  # fmt: skip
_FIX = "only public http and https addresses can be fetched; use documents for internal sources"


def is_public(address: str) -> bool:
    """Whether an IP address literal lies on the public internet."""
    try:
        parsed: _Address = ipaddress.ip_address(address)
    except ValueError:
        return False  # For example with a zone, as in fe80::1%eth0.
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    special = parsed.is_multicast or parsed.is_reserved or parsed.is_unspecified
    listed = any(parsed.version == network.version and parsed in network for network in _NOT_PUBLIC)
    return parsed.is_global and not special and not listed


@dataclass(frozen=True, slots=True)
class AddressGuard:
    """Which addresses may be connected to.

    ports: allowed on public addresses. allowed: (address, port) pairs that are allowed although not public.
    """

    ports: frozenset[int] = frozenset({80, 443})
    allowed: frozenset[tuple[str, int]] = field(default_factory=frozenset)

    def check(self, host: str, address: str, port: int) -> None:
        """Raises BlockedAddress."""
        if (address, port) in self.allowed:
            return
        if not is_public(address):
            raise BlockedAddress(f"{host} is at {address}, which is not a public address", fix=_FIX)
        if port not in self.ports:
            raise BlockedAddress(f"port {port} of {host} is not among the allowed ones", fix=_FIX)


class GuardedNetwork(httpcore.AsyncNetworkBackend):
    """httpcore's network, with the guard between the look-up and the connection."""

    def __init__(self, guard: AddressGuard) -> None:
        self._guard = guard
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self._resolve(host, port, timeout)
        # All are checked before any is used: one bad address among good ones is an attack.
        for address in addresses:
            self._guard.check(host, address, port)
        refused: Exception | None = None
        for address in addresses:
            try:
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                refused = error
        raise refused or httpcore.ConnectError(f"{host} has no address")

    async def _resolve(self, host: str, port: int, timeout: float | None) -> list[str]:
        look_up = asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        try:
            async with asyncio.timeout(timeout):
                found = await look_up
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(f"resolving {host} took too long") from error
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} cannot be resolved: {error}") from error
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        raise BlockedAddress("Unix sockets cannot be fetched", fix=_FIX)

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)


class GuardedTransport(httpx.AsyncBaseTransport):
    """httpx transport over the guarded network; httpx itself offers no way to replace the network."""

    def __init__(self, guard: AddressGuard, max_connections: int = 10) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl.create_default_context(),
            max_connections=max_connections,
            network_backend=GuardedNetwork(guard),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await self._pool.handle_async_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(
                    scheme=request.url.raw_scheme,
                    host=request.url.raw_host,
                    port=request.url.port,
                    target=request.url.raw_path,
                ),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(
            answer.status, headers=answer.headers, stream=_Body(answer), extensions=answer.extensions
        )

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    async def __aiter__(self) -> Any:
        async for part in self._answer.aiter_stream():
            yield part

    async def aclose(self) -> None:
        await self._answer.aclose()
