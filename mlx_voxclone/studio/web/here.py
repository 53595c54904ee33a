"""Whether a request is local: from a browser on this machine, which may name its files and use its accounts.

Behind a proxy on this machine all requests come from 127.0.0.1, so a request through a proxy never counts as local. A
proxy shows by its headers, by HTTP/1.0, which no browser uses, or by the option `--proxy`.
"""

import ipaddress
from collections.abc import Mapping
from typing import Any

from mlx_voxclone.process.network import header_values, host_of

PROXIED = "proxied"  # in a request's scope: the studio was started with `--proxy`
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
    """Whether a request comes from this machine and its page was opened as 127.0.0.1 or localhost."""
    client = scope.get("client")
    if client is None or scope.get(PROXIED) or is_forwarded(scope):
        return False
    hosts = header_values(scope, b"host")
    return is_loopback(client[0]) and len(hosts) == 1 and is_loopback(host_of(hosts[0]) or "")


def is_forwarded(scope: Mapping[str, Any]) -> bool:
    """Whether a request shows signs of a proxy."""
    names = [name for name, _ in scope["headers"]]
    return scope.get("http_version") == "1.0" or any(name in _HEADERS or name.startswith(_ANY) for name in names)


def is_loopback(host: str) -> bool:
    """Whether a host is a loopback address or `localhost`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
