"""The faults of the fault table: what is injected, and what then counts as right."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.faults.systems import System
from tests.support.fake_youtube import page
from tests.support.http_server import LoopbackServer, Resource, serve
from tests.support.video_clips import write_clip

LIMIT_SECONDS = 300
"""A process that still runs then is killed, and that is a failure."""
_HANGS = "no end"


@dataclass(slots=True)
class Bodies:
    """The videos that are served, made once."""

    folder: Path
    good: bytes = field(init=False)
    other: bytes = field(init=False)
    still: bytes = field(init=False)

    def __post_init__(self) -> None:
        noise = "noise=alls=60:allf=t"
        clip = write_clip(self.folder / "good.mp4", filters=noise, crf=10)
        self.good = clip.read_bytes()
        self.other = write_clip(self.folder / "o.mp4", filters=noise, crf=12).read_bytes()
        moving = "testsrc2=size=160x120:rate=5:duration=40"
        pad = "tpad=stop_mode=clone:stop_duration=80"
        still = write_clip(self.folder / "still.mp4", source=moving, filters=pad)
        self.still = still.read_bytes()


@dataclass(slots=True)
class Trial:
    """One system under one fault: what it did, for the verdict and the table."""

    system: System
    folder: Path
    bodies: Bodies
    exits: list[str] = field(default_factory=list)
    stderr: str = ""
    problems: list[str] = field(default_factory=list)
    left: str = ""
    """What lies there at the end."""

    def run(self, server_urls: dict[str, str]) -> str:
        """Run to the end; return the exit code as text."""
        return self.end(self.system.start(self.folder, server_urls))

    def end(self, process: subprocess.Popen[str]) -> str:
        """Wait for the end and note the exit code."""
        try:
            self.stderr += process.communicate(timeout=LIMIT_SECONDS)[1]
            self.exits.append(str(process.returncode))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            self.exits.append(_HANGS)
        return self.exits[-1]

    def require(self, holds: bool, problem: str) -> None:
        """Note a problem unless something holds."""
        if not holds:
            self.problems.append(problem)

    def require_whole(self, name: str, body: bytes) -> None:
        """Demand that the last run succeeded and the video is there, byte for byte."""
        self.require(self.exits[-1] == "0", f"exit {self.exits[-1]}")
        self._require_body(name, body)

    def require_refused(self, name: str, **others: bytes) -> None:
        """Demand a failure and no video of that name, while the others are there."""
        self.require(self.exits[-1] not in ("0", _HANGS), f"exit {self.exits[-1]}")
        self.require(name not in self.system.finals(self.folder), "bad file under a final name")
        for other, body in others.items():
            self._require_body(other, body)

    def _require_body(self, name: str, body: bytes) -> None:
        path = self.system.finals(self.folder).get(name)
        if path is None:
            self.problems.append(f"{name} missing")
        elif path.read_bytes() != body:
            self.problems.append(f"{name} is a wrong file")

    def look(self) -> str:
        """Return what lies in the folder as finished videos, and how much is unfinished."""
        finals = sorted(self.system.finals(self.folder))
        parts = [path for path in self.folder.rglob("*") if ".part" in path.name and path.is_file()]
        words = ", ".join(finals) or "no video"
        return f"{words}, {len(parts)} part" if parts else words


@dataclass(frozen=True, slots=True)
class Fault:
    """One row."""

    injected: str
    right: str
    run: Callable[[Trial], None]
    needs_site: bool = False
    needs_root: bool = False


def _dropped(trial: Trial) -> None:
    body = trial.bodies.good
    with serve({"/x.mp4": Resource(body, drop_after_bytes=len(body) * 2 // 5)}) as server:
        trial.run({"x": server.url("/x.mp4")})
    trial.require_whole("x", body)


def _busy_once(trial: Trial) -> None:
    body = trial.bodies.good
    with serve({"/x.mp4": Resource(body, failing_statuses=[503])}) as server:
        trial.run({"x": server.url("/x.mp4")})
    trial.require_whole("x", body)


def _too_many_requests(trial: Trial) -> None:
    body = trial.bodies.good
    busy = Resource(body, failing_statuses=[429], retry_after="5")
    with serve({"/x.mp4": busy}) as server, serve({"/y.mp4": Resource(body)}) as other:
        trial.run({"x": server.url("/x.mp4"), "y": other.url("/y.mp4")})
        times = [request.seconds for request in server.requests]
    early = [later - times[0] for later in times[1:] if later - times[0] < 5]
    trial.require(not early, f"{len(early)} requests too early")
    trial.require_whole("x", body)
    trial.require_whole("y", body)


def _expired_address(trial: Trial) -> None:
    body = trial.bodies.good
    with serve({"/298": Resource(body, failing_statuses=[403, 403])}) as server:
        server.resources["/watch"] = page(server, id="watch")
        trial.run({"watch": server.url("/watch")})
    trial.require_whole("watch", body)


def _gone(trial: Trial) -> None:
    with serve({"/y.mp4": Resource(trial.bodies.good)}) as server:
        trial.run({"x": server.url("/x.mp4"), "y": server.url("/y.mp4")})
    trial.require_refused("x", y=trial.bodies.good)


def _web_page(trial: Trial) -> None:
    _beside_a_good_one(trial, Resource(_PAGE))


def _playlist(trial: Trial) -> None:
    _beside_a_good_one(trial, Resource(_CONCAT))


def _ends_early(trial: Trial) -> None:
    body = trial.bodies.good
    _beside_a_good_one(trial, Resource(body[: len(body) // 2], states_length=False))


def _still_end(trial: Trial) -> None:
    _beside_a_good_one(trial, Resource(trial.bodies.still))


def _drip(trial: Trial) -> None:
    _beside_a_good_one(trial, Resource(trial.bodies.good, trickle_seconds=5))


def _beside_a_good_one(trial: Trial, bad: Resource) -> None:
    good = trial.bodies.good
    with serve({"/x.mp4": bad, "/y.mp4": Resource(good)}) as server:
        trial.run({"x": server.url("/x.mp4"), "y": server.url("/y.mp4")})
    trial.require_refused("x", y=good)


def _changed(trial: Trial) -> None:
    old, new = trial.bodies.good, trial.bodies.other
    with _stopped_halfway(trial, Resource(old, etag='"1"'), signal.SIGKILL) as server:
        server.resources["/x.mp4"] = Resource(new, etag='"2"')
        trial.run({"x": server.url("/x.mp4")})
    trial.require_whole("x", new)


def _foreign_part(trial: Trial) -> None:
    body = trial.bodies.good
    with _stopped_halfway(trial, Resource(body), signal.SIGKILL) as server:
        for part in trial.folder.rglob("*.part"):
            part.write_bytes(b"x" * part.stat().st_size)
        server.resources["/x.mp4"] = Resource(body)
        trial.run({"x": server.url("/x.mp4")})
    trial.require_whole("x", body)


def _interrupted(trial: Trial) -> None:
    _stop_and_go_on(trial, signal.SIGINT)


def _killed(trial: Trial) -> None:
    _stop_and_go_on(trial, signal.SIGKILL)


def _stop_and_go_on(trial: Trial, signal_number: signal.Signals) -> None:
    body = trial.bodies.good
    with _stopped_halfway(trial, Resource(body), signal_number) as server:
        trial.require("0" not in trial.exits, "exit 0 although stopped")
        trial.require(not trial.system.finals(trial.folder), "half a file under a final name")
        server.resources["/x.mp4"] = Resource(body)
        trial.run({"x": server.url("/x.mp4")})
    trial.require_whole("x", body)


@contextlib.contextmanager
def _stopped_halfway(
    trial: Trial, resource: Resource, signal_number: signal.Signals
) -> Iterator[LoopbackServer]:
    resource.stall_after_bytes = len(resource.body) // 2
    with serve({"/x.mp4": resource}) as server:
        process = trial.system.start(trial.folder, {"x": server.url("/x.mp4")})
        deadline = time.monotonic() + 150
        while not any(request.method == "GET" for request in server.requests):
            if process.poll() is not None or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        time.sleep(3)  # until the half that is sent is written
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal_number)
        trial.end(process)
        yield server


def _two_at_once(trial: Trial) -> None:
    body = trial.bodies.good
    with serve({"/x.mp4": Resource(body, pause_seconds=0.02)}) as server:
        urls = {"x": server.url("/x.mp4")}
        both = [trial.system.start(trial.folder, urls) for _ in range(2)]
        for process in both:
            trial.end(process)
    told = "in use by process" in trial.stderr
    trial.require(told or trial.exits == ["0", "0"], "the second is not told who holds it")
    trial.exits.sort(reverse=True)  # what is demanded is demanded of the one that succeeded
    trial.require_whole("x", body)


def _full_disk(trial: Trial) -> None:
    body = trial.bodies.good
    disk = trial.folder.with_name(trial.folder.name + "_disk")
    disk.mkdir()
    trial.folder = disk / "root"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
    try:
        with serve({"/x.mp4": Resource(body)}) as server:
            trial.run({"x": server.url("/x.mp4")})
            trial.require_refused("x")
            subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
            trial.run({"x": server.url("/x.mp4")})
        trial.require_whole("x", body)
        trial.left = trial.look()
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


_PAGE = b"<!DOCTYPE html><html><body>busy, please come back later</body></html>"
_CONCAT = b"ffconcat version 1.0\nfile '/etc/hostname'\n"
FAULTS = (
    Fault("every connection drops after 2/5 of the file", "whole file", _dropped),
    Fault("503 once, then healthy", "whole file", _busy_once),
    Fault("429 with Retry-After: 5", "no request before, both files", _too_many_requests),
    Fault("403: the address has run out", "looked up anew, whole file", _expired_address, True),
    Fault("404", "failure, no file, the other video", _gone),
    Fault("HTML page, status 200, named .mp4", "failure, no file, the other video", _web_page),
    Fault("playlist named .mp4", "failure, no file, the other video", _playlist),
    Fault("body ends early, no Content-Length", "failure, no file, the other video", _ends_early),
    Fault("picture frozen for the last two thirds", "failure, no file, the other", _still_end),
    Fault("one byte each 5 s", f"failure within {LIMIT_SECONDS} s, the other video", _drip),
    Fault("killed; then the content has changed", "whole new file", _changed),
    Fault("killed; then the part is overwritten", "whole file", _foreign_part),
    Fault("kill -9 halfway, run again", "nothing final, then whole file", _killed),
    Fault("Ctrl-C halfway, run again", "not 0, nothing final, then whole file", _interrupted),
    Fault("two processes on one folder", "whole file, no wrong exit 0", _two_at_once),
    Fault("disk full, then room", "failure, no file, then whole file", _full_disk, needs_root=True),
)
