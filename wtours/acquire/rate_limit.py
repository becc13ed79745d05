"""One limit for each host, shared by all parallel downloads: pauses, and "429 Too Many Requests".

A host that asks to wait gets no request before its time: what is wanted of it is requeued, and
other hosts are asked. Our own and no retry library, since the wait belongs to a host, not to
a call, and holds for all threads.
"""

import random
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from wtours.errors import DownloadError

MAX_WAIT_SECONDS = 900.0
"""A host that asks for more than this is left for the next run."""
MAX_REFUSALS = 8
"""So many times a host may ask to wait in one run."""
FIRST_WAIT_SECONDS = 5.0
"""Without a Retry-After; doubled each time."""


class HostBusyError(DownloadError):
    """The host wants no request for `wait_seconds`; ask again then."""

    def __init__(self, message: str, wait_seconds: float) -> None:
        super().__init__(message)
        self.wait_seconds = wait_seconds


@dataclass(slots=True)
class _Host:
    next_request: float = 0.0
    """Monotonic seconds."""
    not_before: float = 0.0
    num_refusals: int = 0
    is_closed: bool = False


class HostLimits:
    """The limits of all hosts, with a least time between two requests; threads may share it."""

    def __init__(self, *, sleep_seconds: float = 0.0) -> None:
        self._sleep_seconds = sleep_seconds
        self._hosts: dict[str, _Host] = {}
        self._lock = threading.Lock()

    def before_request(self, url: str) -> None:
        """Wait for this request's turn.

        Raises:
            HostBusyError: the host has asked to wait.
            DownloadError: it has asked too often, or for too long.
        """
        with self._lock:
            host, now = self._host(url), time.monotonic()
            _refuse_if_busy(_name(url), host, now)
            turn = max(now, host.next_request)
            host.next_request = turn + self._sleep_seconds
        if turn > now:
            time.sleep(turn - now)

    def check(self, url: str) -> None:
        """Raise as `before_request` does, without taking a turn."""
        with self._lock:
            _refuse_if_busy(_name(url), self._host(url), time.monotonic())

    def refused(self, url: str, retry_after: str | None) -> None:
        """Note that the host asks to wait; `retry_after` is its header (seconds or a date)."""
        with self._lock:
            host = self._host(url)
            host.num_refusals += 1
            wait_seconds = _seconds(retry_after)
            if wait_seconds is None:
                backoff = FIRST_WAIT_SECONDS * 2 ** (host.num_refusals - 1)
                wait_seconds = min(backoff, MAX_WAIT_SECONDS) * random.uniform(0.9, 1.0)
            host.not_before = max(host.not_before, time.monotonic() + wait_seconds)
            # It stays closed: an answer to another thread's request may come later and ask less.
            host.is_closed |= host.num_refusals >= MAX_REFUSALS or wait_seconds > MAX_WAIT_SECONDS

    def _host(self, url: str) -> _Host:
        return self._hosts.setdefault(_name(url), _Host())


def _refuse_if_busy(name: str, host: _Host, now: float) -> None:
    wait_seconds = host.not_before - now
    asks = f"{name} asks for fewer requests (HTTP Error 429)"
    if host.is_closed:
        raise DownloadError(
            f"{asks}, for the next {max(wait_seconds, 0):.0f} s; run the command again later"
        )
    if wait_seconds > 0:
        raise HostBusyError(f"{asks}; it will be asked again", wait_seconds)


def _name(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2].lower()


def _seconds(retry_after: str | None) -> float | None:
    """Return what a Retry-After header says, None if it says nothing that can be read."""
    if retry_after is None:
        return None
    if retry_after.strip().isdigit():
        return float(retry_after)
    try:
        when = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
