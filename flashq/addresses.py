"""Judges internet addresses: which lead to the internet at large, and which to this host.

Owns the table of what is not public, and the reading of addresses in every spelling that resolvers
take. Names are not resolved here. Pure.
"""

from __future__ import annotations

from ipaddress import (
    AddressValueError,
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)
from typing import Final

Address = IPv4Address | IPv6Address

_IPV4_PARTS_MAX: Final = 4
_LOCAL_NAMES: Final = frozenset(
    {"localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"}
)
_LOCAL_SUFFIX: Final = ".localhost"

#: The part of IPv6 that is given out for the internet; all else is for other uses or none.
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
#: IPv6 addresses that lead to the IPv4 address in their last 32 bits.
_NAT64: Final = IPv6Network("64:ff9b::/96")
_ISATAP: Final = frozenset({0x00005EFE, 0x02005EFE})
"""What stands before the IPv4 address in an address of an ISATAP tunnel."""

#: What `is_global` of some supported Python takes for public, and is not.
_NOT_PUBLIC_4: Final = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",
            "192.0.0.0/24",  # protocols' own, some of which are anycast; none is a server's
            "192.88.99.0/24",  # relays of 6to4, deprecated
            "224.0.0.0/4",
            "240.0.0.0/4",
        ),
    )
)
_NOT_PUBLIC_6: Final = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocols' own, with Teredo, benchmarking and ORCHID
            "2001:db8::/32",  # documentation
            "3fff::/20",  # documentation
        ),
    )
)


def read_address(host: str) -> Address | None:
    """Return the address that a host is, in any spelling that a resolver takes for one.

    Args:
        host: as it stands in a URL, without brackets: also `0x7f.1`, `0177.0.0.1`, `2130706433`,
            `fe80::1%eth0`, and any of them with a dot behind it.

    Returns:
        The address; None for a name.
    """
    text = host.rstrip(".")
    try:
        return ip_address(text)
    except ValueError:
        return _read_older(text)


def _read_older(text: str) -> IPv4Address | None:
    """Return the IPv4 address that `inet_aton(3)` reads: up to four numbers, of which the last
    fills what the others leave, each decimal, octal or hexadecimal."""
    parts = text.split(".")
    if len(parts) > _IPV4_PARTS_MAX:
        return None
    value = 0
    for place, part in enumerate(parts):
        number = _number(part)
        is_last = place == len(parts) - 1
        bits = 8 * (_IPV4_PARTS_MAX - place) if is_last else 8
        if number is None or number >= 1 << bits:
            return None
        value = value << bits | number
    try:
        return IPv4Address(value)
    except AddressValueError:
        return None


def _number(text: str) -> int | None:
    if not text.isascii() or not text.isalnum():
        return None
    try:
        if text[:2] in ("0x", "0X"):
            return int(text[2:] or "0", 16)
        return int(text, 8) if text[0] == "0" else int(text, 10)
    except ValueError:
        return None


def is_public(address: str | Address) -> bool:
    """Tell whether an address is one of the internet at large.

    Loopback, private, link-local and other reserved addresses are none, nor are they in the
    clothes of another kind of address, nor is an address with a scope.
    """
    if isinstance(address, str):
        if "%" in address:
            return False
        found: Address = ip_address(address)
    else:
        found = address
    if isinstance(found, IPv4Address):
        return found.is_global and not any(found in network for network in _NOT_PUBLIC_4)
    if found.scope_id is not None:
        return False
    if found.ipv4_mapped is not None:
        return is_public(found.ipv4_mapped)
    inner = IPv4Address(int(found) & 0xFFFFFFFF)
    if found in _NAT64:
        return is_public(inner)
    if found.sixtofour is not None:
        return is_public(found.sixtofour)
    if int(found) >> 32 & 0xFFFFFFFF in _ISATAP and not is_public(inner):
        return False
    return (
        found in _GLOBAL_UNICAST
        and found.is_global
        and not any(found in network for network in _NOT_PUBLIC_6)
    )


def is_loopback(address: str | Address) -> bool:
    """Tell whether an address is one of this host alone, also as IPv4 in IPv6."""
    found = ip_address(address.partition("%")[0]) if isinstance(address, str) else address
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return (mapped or found).is_loopback


def is_local_name(host: str) -> bool:
    """Tell whether a name is this host's own wherever it is asked for, as `localhost`."""
    name = host.rstrip(".").lower()
    return name in _LOCAL_NAMES or name.endswith(_LOCAL_SUFFIX)
