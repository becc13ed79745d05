"""The doctor's checks, on this machine and on what it lacks; and what a dry run says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.fake_youtube import known_site, page
from tests.support.http_server import Resource, serve
from tests.support.small_disk import small_disk
from tests.support.video_clips import write_clip
from wtours.cli import app as cli
from wtours.diagnostics import doctor
from wtours.diagnostics.doctor import decode_test_clip, find_js_runtime
from wtours.media.file_types import Codec
from wtours.workspace.layout import Layout
from wtours.workspace.manifest import VideoEntry, load_manifest

pytestmark = pytest.mark.medium  # whole stages: left out of the inner loop


@pytest.mark.parametrize("codec", Codec)
def test_every_codec_of_youtube_is_decoded(codec):
    assert decode_test_clip(codec) == "5 of 5 frames"


def fake_program(folder: Path, name: str, says: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\necho '{says}'\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("programs", "found", "is_usable"),
    [
        ({}, "none", False),
        ({"node": "v20.1.0"}, "node 20.1.0", True),
        ({"node": "v18.19.1"}, "node 18.19.1", False),
        ({"deno": "deno 2.4.0 (stable, release)"}, "deno 2.4.0", True),
        ({"deno": "deno 1.46.3", "node": "v22.0.0"}, "node 22.0.0", True),
        ({"deno": "what?"}, "deno that does not run", False),
    ],
)
def test_a_javascript_runtime_must_be_new_enough(programs, found, is_usable, tmp_path):
    for name, says in programs.items():
        fake_program(tmp_path, name, says)
    os.environ["PATH"] = str(tmp_path)
    assert find_js_runtime() == (found, is_usable)


def checks(entries: list[VideoEntry], root: Path, **more: int) -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor.diagnose(entries, Layout(root), **more)}


def walk(*sources: str, **more: float) -> VideoEntry:
    return VideoEntry.model_validate(
        {"id": "walk", "title": "A walk", "sources": sources or ("file:x.mp4",), **more}
    )


def test_a_runtime_is_required_for_youtube_only(tmp_path):
    os.environ["PATH"] = str(tmp_path)
    of_youtube = walk("https://www.youtube.com/watch?v=fGX0Te6pFvk")
    assert checks([of_youtube], tmp_path)["JavaScript runtime"].status == "problem"
    assert checks([walk()], tmp_path)["JavaScript runtime"].status == "warning"


def test_a_disk_too_small_for_the_manifest_is_a_problem(tmp_path):
    small = checks([walk(duration_seconds=60)], tmp_path)["disk"]
    assert small.status == "ok"
    large = checks([walk(duration_seconds=1e9)], tmp_path / "not" / "there")["disk"]
    assert large.status == "problem"
    assert f"free in {tmp_path}, about 500000 GB" in large.found
    assert large.remedy is not None


def test_a_root_that_cannot_be_written_is_a_problem_however_much_is_free(tmp_path):
    (tmp_path / "root").write_bytes(b"")
    found = checks([walk(duration_seconds=60)], tmp_path / "root")["disk"]
    assert found.status == "problem"
    assert f"{tmp_path}/root: a file where a folder should be" in found.found
    assert found.remedy == "choose a --root that can be written"


def test_a_read_only_root_is_a_problem(tmp_path):
    with small_disk(tmp_path / "disk", "ro,size=1m") as disk:
        found = checks([walk(duration_seconds=60)], disk / "root")["disk"]
        assert (found.status, "read-only" in found.found) == ("problem", True)
        command = [sys.executable, "-m", "wtours", "download", "--manifest", "demo"]
        result = subprocess.run(
            [*command, "--root", str(disk / "root")], capture_output=True, text=True, check=False
        )
        assert result.returncode == 1
        assert "read-only" in result.stderr
        assert "Traceback" not in result.stderr


def test_the_command_prints_json_and_its_exit_code_tells_of_problems(tmp_path):
    fake_program(tmp_path, "node", "v20.1.0")
    os.environ["PATH"] = str(tmp_path)
    arguments = ["doctor", "--manifest", "walking_tours", "--root", str(tmp_path), "--json"]
    result = CliRunner().invoke(cli.app, arguments)
    rows = json.loads(result.stdout)
    assert result.exit_code == int(any(row["status"] == "problem" for row in rows))
    assert {"Python", "ffmpeg", "decoding av1", "disk", "torch"} <= {row["name"] for row in rows}
    (tmp_path / "node").unlink()
    result = CliRunner().invoke(cli.app, arguments[:-1])
    assert result.exit_code == 1
    assert "problem  JavaScript runtime: none; YouTube needs one: install deno" in result.stdout


def test_a_dry_run_says_what_would_be_fetched_and_fetches_nothing(tmp_path):
    clip = write_clip(tmp_path / "x.mp4")
    manifest = tmp_path / "walks.toml"
    with known_site(), serve({"/298": Resource(clip.read_bytes())}) as server:
        server.resources["/watch/good"] = page(server, duration=4)
        server.resources["/watch/bad"] = page(server, license=None)
        lines = ["format = 1", 'name = "m"']
        sources = {
            "good": server.url("/watch/good"),
            "bad": server.url("/watch/bad"),
            "mine": "file:x.mp4",
        }
        for video_id, source in sources.items():
            lines += ["[[video]]", f'id = "{video_id}"', 'title = "A"', f'sources = ["{source}"]']
        manifest.write_text("\n".join(lines))
        root = tmp_path / "root"
        arguments = ["download", "--manifest", str(manifest), "--root", str(root), "--dry-run"]
        result = CliRunner().invoke(cli.app, [*arguments, "--json"])
        methods = {request.method for request in server.requests if request.path == "/298"}
    rows = {row["id"]: row for row in json.loads(result.stdout)}
    assert result.exit_code == 3
    assert not root.exists()
    assert methods == {"HEAD"}
    size = clip.stat().st_size
    assert rows["good"] == {
        "id": "good",
        "action": "fetch",
        "source": sources["good"],
        "what": "1280x720, 60 fps, avc1.4d4020, format 298",
        "bytes": size,
        "is_estimate": False,
        "duration_seconds": 4,
    }
    assert (rows["mine"]["action"], rows["mine"]["bytes"]) == ("fetch", size)
    assert rows["bad"]["action"] == "fail"
    assert "states no license" in rows["bad"]["what"]


def test_the_ten_walks_have_an_estimate(tmp_path):
    found = checks(list(load_manifest().videos), tmp_path)["disk"].found
    assert "about 25 GB still to fetch" in found


def test_another_picture_than_is_there_is_not_passed_over_in_silence(tmp_path):
    write_clip(tmp_path / "x.mp4")
    manifest = tmp_path / "walks.toml"
    manifest.write_text(
        'format = 1\nname = "m"\n[[video]]\nid = "a"\ntitle = "A"\nsources = ["file:x.mp4"]\n'
    )
    arguments = ["download", "--manifest", str(manifest), "--root", str(tmp_path / "root")]
    assert CliRunner().invoke(cli.app, arguments).exit_code == 0
    result = CliRunner().invoke(cli.app, [*arguments, "--max-height", "2160"])
    assert result.exit_code == 0
    assert "a: there already with 120 lines; to fetch a larger one" in result.stderr
    result = CliRunner().invoke(cli.app, [*arguments, "--codec", "av1"])
    assert result.exit_code == 0
    folder = tmp_path / "root" / "videos" / "a"
    there = f"a: there already as h264; to fetch it as av1, remove {folder} first"
    assert there in result.stderr.splitlines()
    assert (
        "there already" not in CliRunner().invoke(cli.app, [*arguments, "--codec", "h264"]).stderr
    )
