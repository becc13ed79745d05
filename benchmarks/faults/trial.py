"""One system under one fault: what is served, what is demanded, and what lay there at the end."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.faults.systems import System
from tests.support.hls import write_hls
from tests.support.http_server import LoopbackServer, Resource, serve
from tests.support.video_clips import remux, write_clip

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
    stream: bytes = field(init=False)
    """A transport stream, which says nowhere how long it is."""
    fragmented: bytes = field(init=False)
    """An mp4 of fragments, without the list of them that some have at the end."""
    hls: dict[str, Resource] = field(init=False)

    def __post_init__(self) -> None:
        noise = "noise=alls=60:allf=t"
        clip = write_clip(self.folder / "good.mp4", filters=noise, crf=10)
        self.good = clip.read_bytes()
        self.other = write_clip(self.folder / "o.mp4", filters=noise, crf=12).read_bytes()
        moving = "testsrc2=size=160x120:rate=5:duration=40"
        pad = "tpad=stop_mode=clone:stop_duration=80"
        still = write_clip(self.folder / "still.mp4", source=moving, filters=pad)
        self.still = still.read_bytes()
        self.stream = remux(clip, self.folder / "s.ts").read_bytes()
        movflags = "frag_keyframe+empty_moov+default_base_moof+skip_trailer"
        self.fragmented = remux(clip, self.folder / "f.mp4", movflags=movflags).read_bytes()
        (self.folder / "hls").mkdir()
        self.hls = write_hls(self.folder / "hls")


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


def beside_a_good_one(trial: Trial, bad: Resource, *, suffix: str = ".mp4") -> None:
    """Serve a bad video `x` and a good one `y`; demand that only the good one is there."""
    good = trial.bodies.good
    with serve({f"/x{suffix}": bad, "/y.mp4": Resource(good)}) as server:
        trial.run({"x": server.url(f"/x{suffix}"), "y": server.url("/y.mp4")})
    trial.require_refused("x", y=good)


@contextlib.contextmanager
def stopped_halfway(
    trial: Trial, resource: Resource, signal_number: signal.Signals
) -> Iterator[LoopbackServer]:
    """Stop the system when half of `x` is there, and yield the server."""
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
