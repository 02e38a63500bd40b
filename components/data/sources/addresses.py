"""Which network addresses may be contacted on behalf of a list that somebody else wrote."""

import ipaddress
import socket
from collections.abc import Collection

from components.errors import UserError

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_UNICAST = ipaddress.ip_network("2000::/3")
"""All of IPv6 that is given out for the public internet; the rest is reserved, whatever a library takes it for."""


def checked_address(host: str, port: int, allowed: Collection[str]) -> str:
    """Resolves a host once and returns the address to connect to.

    Whoever connects must use this address, not the name: a second look-up may answer otherwise.

    Args:
        host: name or address.
        port: of the service.
        allowed: hosts whose addresses may be private.

    Returns:
        The first address that the resolver gives.

    Raises:
        UserError: if one of its addresses is not public: loopback, private, link-local, multicast or reserved.
        OSError: if the name does not resolve.
    """
    found = [str(one[4][0]) for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if host.lower() not in allowed:
        for address in found:
            if not is_public(address):
                remedy = "take it out of the list, or, if you trust the host, name it in SELFSIGHT_URL_HOSTS"
                raise UserError(f"https://{host}: is at {address}, which is not a public address", remedy=remedy)
    return found[0]


def is_public(address: str) -> bool:
    """Whether an address is one of the public internet, also where it wraps an IPv4 address."""
    one: IPAddress = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(one, ipaddress.IPv6Address):
        wrapped = [one.ipv4_mapped, one.sixtofour, *(one.teredo or ())]
        if one in _NAT64:
            wrapped.append(ipaddress.IPv4Address(int(one) & 0xFFFFFFFF))
        if any(inner is not None and not is_public(str(inner)) for inner in wrapped):
            return False
        if one.ipv4_mapped is not None or one in _NAT64:
            return True
        if one not in _UNICAST:
            return False
    return one.is_global and not one.is_multicast
