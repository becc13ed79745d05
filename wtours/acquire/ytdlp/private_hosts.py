"""No request goes to this machine or its private network, unless the manifest names such a host.

A page may redirect, or list fragments, to 127.0.0.1, 10.0.0.1 or a cloud's metadata service. What
is checked is the address of each connection, so a name that resolves to such an address is refused
too, whatever made the request: yt-dlp has several ways to make one.
"""

import contextlib
import ipaddress
import socket
import sys
import threading
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any
from urllib.parse import urlsplit

_thread = threading.local()


class PrivateHostError(OSError):
    """A connection to a private address was refused; an OSError, since sockets raise those."""


@contextlib.contextmanager
def only_public_hosts(named_urls: Iterable[str]) -> Iterator[None]:
    """Refuse this thread's connections to private addresses, but for the hosts of these URLs."""
    _install_hook()
    before = getattr(_thread, "named_urls", None)
    _thread.named_urls = tuple(named_urls)
    try:
        yield
    finally:
        _thread.named_urls = before


@cache
def _install_hook() -> None:
    # An audit hook, since there is no other one place: yt-dlp's handlers, and the libraries under
    # them, open sockets each in its own way. It sees every thread, and acts in ours only.
    sys.addaudithook(_check_connection)


def _check_connection(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "socket.connect":
        return
    named_urls = getattr(_thread, "named_urls", None)
    address = arguments[1]
    if named_urls is None or not isinstance(address, tuple) or _is_public(address[0]):
        return
    if address[0] not in {found for url in named_urls for found in _addresses(url)}:
        raise PrivateHostError(
            f"it leads to {address[0]}, an address of this machine or of a private network, which "
            f"the manifest does not name"
        )


def _is_public(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False  # a name, which the system will resolve: nobody can tell
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_global


def _addresses(url: str) -> set[str]:
    """Return the addresses of a URL's host; empty if it has none."""
    with contextlib.suppress(OSError, ValueError):
        host = urlsplit(url).hostname
        if host:
            return {str(found[4][0]) for found in socket.getaddrinfo(host, None)}
    return set()
