"""A port to listen on, and the names that a server here answers to.

A page of somebody else's can give its own name the address 127.0.0.1 (DNS rebinding), and a browser then takes a server
on this machine for a part of it. The browser still says which name it asked for, so only a server's own names are to be
answered.
"""

import contextlib
import ipaddress
import re
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from mlx_voxclone.errors import ConfigError

_LOOPBACK = "127.0.0.1"
_LOCAL = ("localhost", _LOOPBACK, "::1")
_EVERY = ("0.0.0.0", "::", "")
_HOST_NAME = re.compile(r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*")
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:/@\[\]]+)(?::\d{1,5})?")


def take_port(host: str, port: int) -> socket.socket:
    """A socket bound to an address, so that the port is known to be free before anything is loaded.

    Args:
        port: 0 takes any free one; `getsockname()[1]` tells which.

    Raises:
        ConfigError: the host is no address of this machine, or the port is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            bare(host), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise ConfigError(f"--host {host}: not an address of this machine; 127.0.0.1 is the usual one") from None
    taken = socket.socket(family, kind, protocol)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
        if address[0] != _LOOPBACK:  # where others look whether a port is free
            with socket.socket() as beside:
                beside.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with contextlib.suppress(PermissionError):
                    beside.bind((_LOOPBACK, taken.getsockname()[1]))
    except OSError as e:
        taken.close()
        reason = (e.strerror or str(e)).lower()
        raise ConfigError(f"port {port} on {host} cannot be used ({reason}); choose another with --port") from None
    return taken


def reached_from_outside(taken: socket.socket) -> str | None:
    """The address that a socket is bound to, if other machines can reach it; None: this machine alone can."""
    address = str(taken.getsockname()[0]).partition("%")[0]
    return None if ipaddress.ip_address(address).is_loopback else address


def shown(host: str) -> str:
    """A host as others write it in an address: where it stands for every address, the one that leads out of here."""
    if bare(host) not in _EVERY:
        return f"[{bare(host)}]" if ":" in host else host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # of nobody; nothing is sent
        return str(probe.getsockname()[0])
    return socket.gethostname().lower()


def bare(host: str) -> str:
    """An address without the brackets that IPv6 has in URLs."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def host_of(header: str) -> str | None:
    """The name in a `Host` header, small letters, without port and brackets; None: it is none."""
    found = _HOST.fullmatch(header)
    return bare(found[1]).lower() if found else None


def is_name(text: str) -> bool:
    """Whether a text is a host's name and nothing more: no port, no path, no address in brackets."""
    return _HOST_NAME.fullmatch(text) is not None


class Names:
    """The names that a server answers to: this machine's own ones, and the host that it was told to listen on.

    Args:
        host: of `--host`; where it stands for every address (0.0.0.0), any address in digits and this machine's name
            are answered too: neither can be made to point here by somebody else.
        proxy: name under which a proxy shows the server; None: there is none.
    """

    def __init__(self, host: str, proxy: str | None = None) -> None:
        host = bare(host).lower()
        self._everywhere = host in _EVERY
        own = {socket.gethostname().lower(), socket.getfqdn().lower()} if self._everywhere else {host}
        self._names = {*_LOCAL, *own, *(f"{name}.local" for name in own if self._everywhere and "." not in name)}
        if proxy is not None:
            self._names.add(proxy.lower())

    def __contains__(self, name: str | None) -> bool:
        return name is not None and (name in self._names or (self._everywhere and _is_address(name)))


def header_values(scope: Mapping[str, Any], name: bytes) -> list[str]:
    """All values of a header in an ASGI scope; `name` in small letters."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def origin_of(origin: str) -> str | None:
    """The name in an `Origin` header, small letters; None: it is none."""
    try:
        return (urlsplit(origin).hostname or "").lower()
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
