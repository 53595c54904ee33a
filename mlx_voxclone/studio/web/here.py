"""Whether a request comes from a browser on this very machine, which may then name its files and use its accounts.

Behind a proxy on this machine everybody's requests come from 127.0.0.1. What a proxy passes on is therefore nobody's
who sits here: it says so by a header, by speaking HTTP/1.0, which no browser does, or because it was told (`--proxy`).
"""

import ipaddress
from collections.abc import Mapping
from typing import Any

from mlx_voxclone.process.network import header_values, host_of

PROXIED = "proxied"  # in a request's scope: the studio was told of a proxy
_HEADERS = {
    b"forwarded",
    b"via",
    b"x-real-ip",
    b"x-client-ip",
    b"x-cluster-client-ip",
    b"true-client-ip",
    b"cf-connecting-ip",
    b"fly-client-ip",
}
_ANY = b"x-forwarded-"


def is_here(scope: Mapping[str, Any]) -> bool:
    """Whether a request comes from this machine and was made for it: the page was opened as 127.0.0.1 or localhost."""
    client = scope.get("client")
    if client is None or scope.get(PROXIED) or is_forwarded(scope):
        return False
    hosts = header_values(scope, b"host")
    return is_loopback(client[0]) and len(hosts) == 1 and is_loopback(host_of(hosts[0]) or "")


def is_forwarded(scope: Mapping[str, Any]) -> bool:
    """Whether a proxy has passed a request on, as far as that can be seen."""
    names = [name for name, _ in scope["headers"]]
    return scope.get("http_version") == "1.0" or any(name in _HEADERS or name.startswith(_ANY) for name in names)


def is_loopback(host: str) -> bool:
    """Whether an address, or a name, is this machine's own."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
