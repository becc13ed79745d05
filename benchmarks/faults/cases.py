"""The faults of the fault table: what is injected, and what then counts as right."""

import re
import signal
import subprocess

from benchmarks.faults.systems import MAX_MEGABYTES
from benchmarks.faults.trial import (
    LIMIT_SECONDS,
    Fault,
    Trial,
    beside_a_good_one,
    stopped_halfway,
)
from tests.support.fake_youtube import page
from tests.support.hls import PLAYLIST
from tests.support.http_server import Resource, serve


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
    beside_a_good_one(trial, Resource(_PAGE))


def _playlist(trial: Trial) -> None:
    beside_a_good_one(trial, Resource(_CONCAT))


def _ends_early(trial: Trial) -> None:
    body = trial.bodies.good
    beside_a_good_one(trial, Resource(body[: len(body) // 2], states_length=False))


def _half_a_stream(trial: Trial) -> None:
    whole = trial.bodies.stream
    half = whole[: len(whole) // 2 // 188 * 188]
    beside_a_good_one(trial, Resource(half, states_length=False), suffix=".ts")


def _some_fragments(trial: Trial) -> None:
    whole = trial.bodies.fragmented
    places = [found.start() for found in re.finditer(b"moof", whole)]
    cut = whole[: places[len(places) // 2] - 4]
    beside_a_good_one(trial, Resource(cut, states_length=False))


def _hls_with(trial: Trial, fragment: Resource | None) -> None:
    good, resources = trial.bodies.good, dict(trial.bodies.hls)
    del resources["/walk3.ts"]
    if fragment is not None:
        resources["/walk3.ts"] = fragment
    with serve({**resources, "/y.mp4": Resource(good)}) as server:
        trial.run({"walk": server.url(PLAYLIST), "y": server.url("/y.mp4")})
    trial.require_refused("walk", y=good)


def _hls_missing(trial: Trial) -> None:
    _hls_with(trial, None)


def _hls_empty(trial: Trial) -> None:
    _hls_with(trial, Resource(b""))


def _hls_false(trial: Trial) -> None:
    _hls_with(trial, Resource(_PAGE))


def _states_a_petabyte(trial: Trial) -> None:
    size = {"Content-Length": str(10**15)}
    beside_a_good_one(trial, Resource(trial.bodies.good, headers=size))


def _endless(trial: Trial) -> None:
    endless = Resource(trial.bodies.good, states_length=False, is_endless=True)
    beside_a_good_one(trial, endless)
    written = sum(p.stat().st_size for p in trial.folder.rglob("*") if p.is_file())
    trial.require(written < 2 * MAX_MEGABYTES * 2**20, f"{written >> 20} MiB on the disk")


def _endless_rest(trial: Trial) -> None:
    body = trial.bodies.good
    resource = Resource(body)
    with stopped_halfway(trial, resource, signal.SIGKILL) as server:
        server.resources["/x.mp4"] = Resource(body, is_endless=True)
        trial.run({"x": server.url("/x.mp4")})
        trial.require(server.endless_bytes < 2 * MAX_MEGABYTES * 2**20, "read without end")
    trial.require_refused("x")


def _private_redirect(trial: Trial) -> None:
    good = trial.bodies.good
    with serve({"/x.mp4": Resource(good)}, host="127.0.0.2") as private:
        beside_a_good_one(trial, Resource(b"", location=private.url("/x.mp4")))
        trial.require(not private.requests, "the private host was asked")


def _secrets(trial: Trial) -> None:
    path, secrets = "/x.mp4?token=t0psecret", ("hunter2", "t0psecret")
    with serve({path: Resource(trial.bodies.good)}) as server:
        trial.run({"x": server.url(path).replace("//", "//walker:hunter2@")})
    trial.require_whole("x", trial.bodies.good)
    texts = [p.read_text() for p in trial.folder.rglob("*") if p.suffix in (".json", ".md")]
    for secret in secrets:
        trial.require(all(secret not in text for text in [*texts, trial.stderr]), "secrets shown")


def _still_end(trial: Trial) -> None:
    beside_a_good_one(trial, Resource(trial.bodies.still))


def _drip(trial: Trial) -> None:
    beside_a_good_one(trial, Resource(trial.bodies.good, trickle_seconds=5))


def _changed(trial: Trial) -> None:
    old, new = trial.bodies.good, trial.bodies.other
    with stopped_halfway(trial, Resource(old, etag='"1"'), signal.SIGKILL) as server:
        server.resources["/x.mp4"] = Resource(new, etag='"2"')
        trial.run({"x": server.url("/x.mp4")})
    trial.require_whole("x", new)


def _foreign_part(trial: Trial) -> None:
    body = trial.bodies.good
    with stopped_halfway(trial, Resource(body), signal.SIGKILL) as server:
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
    with stopped_halfway(trial, Resource(body), signal_number) as server:
        trial.require("0" not in trial.exits, "exit 0 although stopped")
        trial.require(not trial.system.finals(trial.folder), "half a file under a final name")
        server.resources["/x.mp4"] = Resource(body)
        trial.run({"x": server.url("/x.mp4")})
    trial.require_whole("x", body)


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
_REFUSED = "failure, no file, the other video"
FAULTS = (
    Fault("every connection drops after 2/5 of the file", "whole file", _dropped),
    Fault("503 once, then healthy", "whole file", _busy_once),
    Fault("429 with Retry-After: 5", "no request before, both files", _too_many_requests),
    Fault("403: the address has run out", "looked up anew, whole file", _expired_address, True),
    Fault("404", "failure, no file, the other video", _gone),
    Fault("HTML page, status 200, named .mp4", "failure, no file, the other video", _web_page),
    Fault("playlist named .mp4", "failure, no file, the other video", _playlist),
    Fault("body ends early, no Content-Length", "failure, no file, the other video", _ends_early),
    Fault("half a .ts, no Content-Length", "failure, no file, the other video", _half_a_stream),
    Fault("half the fragments of an mp4, no Content-Length", _REFUSED, _some_fragments),
    Fault("HLS: a fragment is missing", _REFUSED, _hls_missing),
    Fault("HLS: a fragment is empty", _REFUSED, _hls_empty),
    Fault("HLS: a fragment is a web page", _REFUSED, _hls_false),
    Fault("the server states 1 PB", _REFUSED, _states_a_petabyte),
    Fault(f"a body without end, {MAX_MEGABYTES} MiB allowed", _REFUSED, _endless),
    Fault("killed; then the rest has no end", "failure, no file, soon", _endless_rest),
    Fault("redirect to another host of this machine", "no request, the other", _private_redirect),
    Fault("password and token in the URL", "whole file, neither is shown or stored", _secrets),
    Fault("picture frozen for the last two thirds", "failure, no file, the other", _still_end),
    Fault("one byte each 5 s", f"failure within {LIMIT_SECONDS} s, the other video", _drip),
    Fault("killed; then the content has changed", "whole new file", _changed),
    Fault("killed; then the part is overwritten", "whole file", _foreign_part),
    Fault("kill -9 halfway, run again", "nothing final, then whole file", _killed),
    Fault("Ctrl-C halfway, run again", "not 0, nothing final, then whole file", _interrupted),
    Fault("two processes on one folder", "whole file, no wrong exit 0", _two_at_once),
    Fault("disk full, then room", "failure, no file, then whole file", _full_disk, needs_root=True),
)
