"""A set goes to a stand-in of the Hub and comes back to the byte, through kills and damage."""

import json
import os
import signal
import subprocess
import sys

import pytest
from huggingface_hub import HfFileSystem

from tests.support.command_line import exit_code_of, wtours
from tests.support.fake_hub import TOKEN, fake_hub
from tests.support.shard_set import write_shard_set
from wtours.errors import ConflictError, ShardError, StorageError, UsageError
from wtours.hub.push import push_shards
from wtours.shards.verify import verify_shards
from wtours.workspace.layout import Layout

pytestmark = [
    pytest.mark.medium,
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),  # the client's own call
]
REPOSITORY = "lab/walks"
URL = f"hf://datasets/{REPOSITORY}"
TARS = ("bari-00000.tar", "oslo-00000.tar", "rome-00000.tar")


@pytest.fixture
def hub(monkeypatch):
    with fake_hub() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        for name, value in _environment(hub).items():
            monkeypatch.setenv(name, value)
        HfFileSystem.clear_instance_cache()  # fsspec would keep that of another hub
        yield hub


def _environment(hub):
    return {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}


@pytest.fixture
def layout(tmp_path):
    layout = Layout(tmp_path)
    write_shard_set(layout.shards_dir("walks"), num_frames=6, videos=("bari", "oslo", "rome"))
    return layout


def test_a_set_that_was_pushed_comes_back_to_the_byte(hub, layout, monkeypatch, capsys):
    root = ("--root", str(layout.root))
    assert exit_code_of(monkeypatch, "push", "walks", URL, *root, "--json") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["files_sent"] == json.loads(shown.out)["files"] == 7
    assert TOKEN not in shown.out + shown.err
    assert "no license was observed of bari, oslo, rome" in shown.err
    assert hub.private[REPOSITORY]
    # Until its last commit the repository holds no set.
    last = ["README.md", "croissant.json", "dataset.json", "index.parquet"]
    assert hub.commits == [list(TARS), last]

    assert exit_code_of(monkeypatch, "push", "walks", URL, *root) == 0
    assert "0 sent, 7 there already" in capsys.readouterr().out
    assert len(hub.commits) == 2

    pulled = wtours("pull", URL, "again", *root, **_environment(hub))
    assert pulled.returncode == 0, pulled.stderr
    assert TOKEN not in pulled.stdout + pulled.stderr
    again = layout.shards_dir("again")
    assert verify_shards(again).ok
    for path in layout.shards_dir("walks").iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes()
    assert (again / "croissant.json").read_bytes() == hub.content(REPOSITORY, "croissant.json")
    copied = {path.name: path.stat().st_mtime_ns for path in again.iterdir()}
    pulled = wtours("pull", URL, "again", *root, **_environment(hub))
    assert "0 copied, 7 there already" in pulled.stdout
    assert copied == {path.name: path.stat().st_mtime_ns for path in again.iterdir()}


def test_a_killed_push_is_resumed_without_sending_again(hub, layout):
    hub.stall_at = 2
    command = ["-m", "wtours", "push", "walks", URL, "--root", str(layout.root)]
    environment = {**os.environ, **_environment(hub)}
    with subprocess.Popen([sys.executable, *command], env=environment) as process:
        assert hub.stalled.wait(120)
        process.send_signal(signal.SIGKILL)
    assert "dataset.json" not in hub.repositories[REPOSITORY]
    received = set(hub.objects)
    hub.stall_at = None
    hub.closing.set()
    push_shards(layout.shards_dir("walks"), URL)
    sent_again = [oid for oid in hub.puts if oid in received]
    assert len(sent_again) == len(received)  # what had been answered was sent once
    assert set(TARS) < hub.repositories[REPOSITORY].keys()


def test_a_set_that_grew_is_a_new_commit_of_what_is_new(hub, layout, tmp_path):
    push_shards(layout.shards_dir("walks"), URL)
    grown = write_shard_set(
        tmp_path / "grown", num_frames=6, videos=("bari", "oslo", "rome", "turin")
    )
    report = push_shards(grown, URL)
    assert hub.commits[2] == ["turin-00000.tar"]
    assert report.files - report.files_sent == 3
    assert hub.content(REPOSITORY, "dataset.json") == (grown / "dataset.json").read_bytes()


def test_another_set_of_the_same_videos_is_refused(hub, layout, tmp_path):
    push_shards(layout.shards_dir("walks"), URL)
    other = write_shard_set(tmp_path / "other", num_frames=7, videos=("bari",))
    with pytest.raises(ConflictError, match=r"bari-00000\.tar has other bytes: it is of another"):
        push_shards(other, URL)
    assert len(hub.commits) == 2


def test_a_set_that_has_lost_a_video_is_refused_where_its_tar_would_still_be_loaded(
    hub, layout, tmp_path
):
    push_shards(layout.shards_dir("walks"), URL)
    fewer = write_shard_set(tmp_path / "fewer", num_frames=6, videos=("bari", "oslo"))
    with pytest.raises(ConflictError, match=r"rome-00000\.tar is not of this set"):
        push_shards(fewer, URL)
    assert len(hub.commits) == 2


def test_what_is_damaged_here_or_there_is_said(hub, layout):
    hub.flips_bytes = True
    with pytest.raises(StorageError, match=r"bari-00000\.tar did not arrive as it was sent"):
        push_shards(layout.shards_dir("walks"), URL)
    tar = layout.shards_dir("walks") / "oslo-00000.tar"
    data = bytearray(tar.read_bytes())
    data[5000] ^= 1
    tar.write_bytes(data)
    with pytest.raises(ShardError, match=r"oslo-00000\.tar is damaged: its sha256 is"):
        push_shards(layout.shards_dir("walks"), "hf://datasets/lab/other")


def test_a_wrong_token_and_a_wrong_address_are_one_line_without_the_token(hub, layout, monkeypatch):
    directory = layout.shards_dir("walks")
    monkeypatch.setenv("HF_TOKEN", "hf_anotherSecret")
    with pytest.raises(StorageError, match="log in with `hf auth login`, or set HF_TOKEN") as found:
        push_shards(directory, URL)
    assert "hf_anotherSecret" not in str(found.value)
    assert "\n" not in str(found.value)
    for url in ("hf://lab/walks", "hf://datasets/lab", "hf://datasets/lab/walks/deeper"):
        with pytest.raises(UsageError, match="names no dataset: hf://datasets/OWNER/NAME does"):
            push_shards(directory, url)


def test_a_repository_that_is_not_there_is_named(hub, layout, monkeypatch, capsys):
    url = "hf://datasets/lab/nothing"
    assert exit_code_of(monkeypatch, "pull", url, "x", "--root", str(layout.root)) == 1
    assert "hf://datasets/lab/nothing is not a finished shard set" in capsys.readouterr().err
    assert not layout.shards_dir("x").exists() or not any(layout.shards_dir("x").iterdir())
