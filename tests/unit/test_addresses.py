"""Which addresses lead to the internet at large: the registries of the IANA, written out."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from flashq.addresses import is_local_name, is_loopback, is_public, read_address

#: IANA IPv4 Special-Purpose Address Registry: blocks that are not globally reachable, or of which
#: it says nothing; and multicast, which has a registry of its own.
NOT_REACHABLE_4 = (
    "0.0.0.0/8", "0.0.0.0/32", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
    "172.16.0.0/12", "192.0.0.0/29", "192.0.0.8/32", "192.0.0.170/32", "192.0.0.171/32",
    "192.0.2.0/24", "192.88.99.0/24", "192.88.99.2/32", "192.168.0.0/16", "198.18.0.0/15",
    "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4", "255.255.255.255/32", "224.0.0.0/4",
)  # fmt: skip
#: IANA IPv6 Special-Purpose Address Registry: the same; and what was given out for other uses
#: before: site-local, IPv4-compatible, IPv4-translated, and multicast.
NOT_REACHABLE_6 = (
    "::1/128", "::/128", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "2001::/32",
    "2001:2::/48", "2001:10::/28", "2001:db8::/32", "3fff::/20", "5f00::/16", "fc00::/7",
    "fe80::/10", "fec0::/10", "::/96", "::ffff:0:0:0/96", "ff00::/8",
)  # fmt: skip
#: Blocks of the IPv6 internet that somebody has.
REACHABLE = (
    "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0",
    "126.255.255.255", "128.0.0.0", "169.253.255.255", "169.255.0.0", "172.15.255.255",
    "172.32.0.0", "192.31.196.1", "192.88.98.255", "192.88.100.0", "192.167.255.255",
    "192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255", "2001:4860:4860::8888",
    "2606:4700::1111", "2620:4f:8000::1", "2a00:1450::1", "3ffe:ffff::1",
)  # fmt: skip


def edges(block: str) -> tuple[str, str]:
    """Return the first and the last address of a block."""
    network = ip_network(block)
    return str(network[0]), str(network[-1])


@pytest.mark.parametrize("block", NOT_REACHABLE_4 + NOT_REACHABLE_6)
def test_a_special_block_is_not_public_at_either_end(block: str) -> None:
    """A webhook must not reach the metadata service of a cloud, or a database that trusts its own
    host."""
    for address in edges(block):
        assert not is_public(address), address


@pytest.mark.parametrize("block", NOT_REACHABLE_4)
@pytest.mark.parametrize(
    "clothes",
    [
        "::ffff:{}", "::{}", "::ffff:0:{}", "64:ff9b::{}", "64:ff9b:1::{}", "64:ff9b:1:ffff::{}",
        "2002:{high}:{low}::1", "2001:0:808:808::{}", "2a00::5efe:{}", "2a00::200:5efe:{}",
    ],
)  # fmt: skip
def test_a_special_block_is_not_public_in_the_clothes_of_ipv6(block: str, clothes: str) -> None:
    """Each of these leads somewhere to the IPv4 address that is in it: mapped, compatible,
    translated, NAT64, 6to4, Teredo, ISATAP."""
    for address in edges(block):
        value = int(ip_network(address).network_address)
        dressed = clothes.format(address, high=f"{value >> 16:x}", low=f"{value & 0xFFFF:x}")
        assert not is_public(dressed), dressed


@pytest.mark.parametrize("address", REACHABLE)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    """Webhooks would be of little use otherwise; the neighbours of special blocks are none."""
    assert is_public(address)
    if "." in address:
        assert is_public(f"::ffff:{address}")
        assert is_public(f"64:ff9b::{address}")


@pytest.mark.parametrize("address", ["fe80::1%eth0", "2a00:1450::1%eth0", "::1%lo"])
def test_an_address_with_a_scope_is_not_public(address: str) -> None:
    """A scope is a link of this host."""
    assert not is_public(address)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"), ("127.0.0.1.", "127.0.0.1"), ("0x7f.1", "127.0.0.1"),
        ("0X7F000001", "127.0.0.1"), ("0177.0.0.1", "127.0.0.1"), ("2130706433", "127.0.0.1"),
        ("017700000001", "127.0.0.1"), ("127.1", "127.0.0.1"), ("10.0x100", "10.0.1.0"),
        ("192.168.257", "192.168.1.1"), ("0", "0.0.0.0"), ("::1", "::1"),
        ("::ffff:7f00:1", "::ffff:127.0.0.1"), ("fe80::1%eth0", "fe80::1%eth0"),
    ],
)  # fmt: skip
def test_an_address_is_read_in_every_spelling_that_resolvers_take(host: str, address: str) -> None:
    """`inet_aton` takes octal and hexadecimal numbers, fewer than four, and so do resolvers."""
    found = read_address(host)
    assert found is not None
    assert found == read_address(address)
    assert not is_public(found)


@pytest.mark.parametrize(
    "host",
    ["example.com", "", ".", "1.2.3.4.5", "256.1.1.1", "1.2.3.256", "4294967296", "08.1.1.1",
     "0xg", "1..2", "1_0.1.1.1", "a1", "-1.1.1.1", "+1.1.1.1", "٣.1.1.1"],
)  # fmt: skip
def test_everything_else_is_a_name(host: str) -> None:
    """A name is resolved, and judged by what it resolves to."""
    assert read_address(host) is None


def test_loopback_is_this_host_alone() -> None:
    """Also in the clothes that a listener of both kinds gives its clients."""
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "::1%lo")))
    assert not any(map(is_loopback, ("0.0.0.0", "10.0.0.1", "::ffff:10.0.0.1", "fe80::1%lo")))


def test_names_of_this_host_are_known_without_a_resolver() -> None:
    """RFC 6761 gives `localhost` and what ends in it to loopback."""
    assert all(map(is_local_name, ("localhost", "LOCALHOST.", "a.localhost", "ip6-localhost")))
    assert not any(map(is_local_name, ("example.com", "localhost.example.com", "notlocalhost", "")))
