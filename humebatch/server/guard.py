"""Which addresses the server may connect to when a caller chooses the URL (SSRF guard).

A name is resolved once and refused unless every address is public or allowed; whoever connects must use
the addresses that `Guard` gave back, so that a second answer of the name server cannot lead elsewhere.
Public means: an ordinary unicast address of the Internet (IANA special-purpose registries, as `ipaddress`
knows them), also after unwrapping IPv4 addresses inside IPv6 ones (mapped, NAT64, 6to4).
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Sequence

from ..errors import ConfigError

__all__ = ["LOOPBACK", "Guard", "Refusal", "Resolve"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Host and port to addresses; raises `OSError` when there are none."""

LOOPBACK = ("127.0.0.0/8", "::1/128")
"""What to allow for this machine itself."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_UNICAST_6 = ipaddress.ip_network("2000::/3")
# Not for ordinary hosts, whatever the version of Python says: protocol assignments and 6to4 relays.
_SPECIAL_4 = (ipaddress.ip_network("192.0.0.0/24"), ipaddress.ip_network("192.88.99.0/24"))
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?\.?")


class Refusal(Exception):
    """This URL must not be connected to, now or later. The text says why, without its path and query."""


class Guard:
    """Decides which addresses may be connected to: public ones, and what `allow` names (hosts, addresses, CIDR).

    `option` is the setting that `allow` comes from; refusals name it.
    """

    def __init__(
        self, allow: Sequence[str] = (), resolve: Resolve | None = None, *, option: str = "callback_allow"
    ) -> None:
        self._flag = f"--{option.replace('_', '-')}"
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        self._hosts: set[str] = set()
        self._resolve = resolve or _resolve
        for entry in allow:
            try:
                self._networks.append(ipaddress.ip_network(entry.strip("[]"), strict=False))
            except ValueError:
                if not _HOST.fullmatch(entry):
                    raise ConfigError(
                        f"{option}: {entry!r} is no host name, address or CIDR range (no scheme, no port)",
                        field=option,
                    ) from None
                self._hosts.add(_plain(entry))

    async def addresses(self, host: str, port: int) -> list[str]:
        """What `host` resolves to. Raises `Refusal` unless all of it is permitted, `OSError` if it is nothing."""
        found = await self._resolve(host, port)
        if not found:
            raise OSError("the name has no address")
        if _plain(host) not in self._hosts:
            for text in found:
                if not self._permitted(text):
                    what = f"{text} is" if text == host else f"{host} resolves to {text}, which is"
                    raise Refusal(f"{what} not a public address; {self._flag} {host} would permit it")
        return found

    def _permitted(self, text: str) -> bool:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return False
        inner = _inner(address)
        return _public(address) or any(one in net for net in self._networks for one in (address, inner or address))


def _plain(host: str) -> str:
    return host.lower().rstrip(".")


def _inner(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address leads to: mapped, NAT64 or 6to4."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour


def _public(address: Address) -> bool:
    inner = _inner(address)
    if inner is not None:
        return _public(inner)
    if address.version == 6:
        return address in _UNICAST_6 and address.is_global
    return address.is_global and not address.is_multicast and not any(address in net for net in _SPECIAL_4)


async def _resolve(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
