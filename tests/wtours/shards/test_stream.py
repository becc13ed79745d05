import io
import itertools
import multiprocessing
import shutil
import socket
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.object_stores import OF_S3_CLIENTS, copy_into
from tests.support.range_server import RangeServer, serve_ranges
from tests.support.sharded_videos import publish_video
from tests.support.video_clips import write_clip
from wtours.errors import MissingPackageError, ShardError
from wtours.sharding.build import build_shards
from wtours.shards import (
    Clip,
    ClipDataset,
    FetchPolicy,
    ShardIndex,
    StreamOrder,
    stream_clips,
)
from wtours.shards.params import ShardParams
from wtours.shards.range_reads import remote
from wtours.shards.tar_reader import read_samples
from wtours.workspace.layout import Layout

pytestmark = pytest.mark.medium  # whole stages: left out of the inner loop

RATES = {"one": 30, "two": 60, "three": 25}
QUICK = FetchPolicy(attempts=2, timeout_seconds=60)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Three videos of 4 s, of 30, 60 and 25 frames a second, in shards of one second."""
    folder = tmp_path_factory.mktemp("built")
    layout = Layout(folder / "root")
    for video_id, rate in RATES.items():
        source = f"testsrc2=size=96x64:rate={rate}:duration=4"
        publish_video(layout, video_id, write_clip(folder / f"{video_id}.mp4", source=source))
    params = ShardParams(shard_seconds=1, short_side=48)
    return build_shards(layout, sorted(RATES), params=params).directory


@pytest.fixture
def directory(built, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(built, tmp_path / "set"))


@pytest.fixture
def server(directory):
    pytest.importorskip("aiohttp")
    with serve_ranges(directory) as running:
        yield running


def tars(directory: Path) -> list[str]:
    return sorted(map(str, directory.glob("*.tar")))


def content(clip: Clip) -> tuple[str, tuple[int, ...], tuple[bytes, ...]]:
    return clip.video_id, clip.pts_us, clip.jpegs


def indexed(directory: Path, **rule) -> list[tuple[str, tuple[int, ...], tuple[bytes, ...]]]:
    dataset = ClipDataset(ShardIndex.open(directory), across_cuts=True, **rule)
    return [content(dataset[number]) for number in range(len(dataset))]


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 8), st.sampled_from([0.04, 0.1, 1 / 3, 0.5, 1.0]), st.booleans())
def test_a_stream_has_the_clips_of_the_index(built, clip_length, interval, with_dataset):
    rule: dict[str, Any] = {"clip_length": clip_length, "frame_interval_seconds": interval}
    source = str(built) if with_dataset else list(reversed(tars(built)))
    try:
        expected = indexed(built, **rule)
    except ShardError:
        with pytest.raises(ShardError, match="no clip of"):
            list(stream_clips(source, **rule))
        return
    streamed = map(content, stream_clips(source, order=StreamOrder(videos_at_once=1), **rule))
    assert list(streamed) == expected


@pytest.mark.parametrize(
    ("options", "fps"),
    [
        ({"source": "testsrc2=size=64x48:rate=60000/1001:duration=4"}, "30"),
        ({"source": "testsrc2=size=64x48:rate=25:duration=4"}, "native"),
        ({"source": "testsrc2=size=64x48:rate=30000/1001:duration=4"}, "12.5"),
        ({"source": "testsrc2=size=64x48:rate=10:duration=9"}, "30"),
        (
            {
                "source": "testsrc2=size=64x48:rate=30:duration=6",
                "filters": "select='lt(n,50)+not(mod(n,7))'",
                "fps_mode": "vfr",
            },
            "native",
        ),
        (
            {
                "source": "testsrc2=size=64x48:rate=30:duration=8",
                "filters": "select='lt(n,80)+gt(n,170)+not(mod(n,2))'",
                "fps_mode": "vfr",
            },
            "30",
        ),
    ],
)
@pytest.mark.parametrize("interval", [0.1, 0.237, 0.55, 1.0])
def test_the_folder_and_its_tars_give_the_same_clips(tmp_path, options, fps, interval):
    layout = Layout(tmp_path)
    suffix = ".mkv" if "fps_mode" in options else ".mp4"
    publish_video(layout, "walk", write_clip(tmp_path / f"walk{suffix}", **options))
    params = ShardParams(frames_per_second=fps, shard_seconds=2, short_side=32)
    directory = build_shards(layout, ["walk"], params=params).directory
    rule: dict[str, Any] = {"clip_length": 3, "frame_interval_seconds": interval}

    expected = indexed(directory, **rule)
    for source in (str(directory), tars(directory)):
        assert [content(clip) for clip in stream_clips(source, **rule)] == expected


def test_videos_take_turns_and_shuffling_keeps_every_clip(built):
    rule: dict[str, Any] = {"clip_length": 2, "frame_interval_seconds": 0.5}
    clips = list(stream_clips(str(built), order=StreamOrder(videos_at_once=3), **rule))
    assert [clip.video_id for clip in clips[:6]] == ["one", "three", "two"] * 2
    assert all(clip.start is None for clip in clips)
    assert sorted(map(content, clips)) == indexed(built, **rule)

    def shuffled(seed):
        order = StreamOrder(shuffle_clips=50, seed=seed)
        return [content(clip) for clip in stream_clips(str(built), order=order, **rule)]

    assert sorted(shuffled(0)) == indexed(built, **rule)
    assert shuffled(0) == shuffled(0) != shuffled(1)
    assert shuffled(0)[:20] != sorted(shuffled(0))[:20]


@pytest.mark.parametrize("num_parts", [2, 4, 5])
def test_parts_share_no_clip_and_lose_only_those_over_a_border(built, num_parts):
    rule: dict[str, Any] = {"clip_length": 2, "frame_interval_seconds": 0.5}
    parts = [
        list(stream_clips(str(built), order=StreamOrder(part=part, num_parts=num_parts), **rule))
        for part in range(num_parts)
    ]
    seen = [content(clip) for part in parts for clip in part]
    assert len(set(seen)) == len(seen)
    borders = {4 * n // num_parts * 1_000_000 for n in range(1, num_parts)} - {0}
    assert sorted(seen) == [
        clip
        for clip in indexed(built, **rule)
        if not any(clip[1][0] < border <= clip[1][-1] for border in borders)
    ]


def test_parts_change_places_from_pass_to_pass_and_an_endless_stream_goes_on(built):
    rule: dict[str, Any] = {"clip_length": 2, "frame_interval_seconds": 0.25}
    order = StreamOrder(passes=None, part=1, num_parts=2, videos_at_once=1)
    stream = map(content, stream_clips(str(built), order=order, **rule))
    halves = [
        [content(c) for c in stream_clips(str(built), order=half, **rule)]
        for half in (StreamOrder(part=p, num_parts=2, videos_at_once=1) for p in range(2))
    ]
    expected = [*halves[1], *halves[0], *halves[1]]
    assert list(itertools.islice(stream, len(expected))) == expected


def test_a_stride_takes_each_so_manieth_start(built):
    rule: dict[str, Any] = {"clip_length": 2, "frame_interval_seconds": 0.5}
    order = StreamOrder(start_stride=7, videos_at_once=1)
    starts = [c.pts_us[0] for c in stream_clips(str(built), order=order, **rule)]
    every = [pts[0] for video_id, pts, _ in indexed(built, **rule) if video_id == "one"]
    assert starts[: len(every[::7])] == every[::7]


@pytest.mark.medium
def test_a_web_server_is_read_by_ranges_and_failures_are_tried_again(server, monkeypatch):
    monkeypatch.setattr(remote, "RANGE_BYTES", 50_000)
    server.failures["two-00002.tar"] = 1
    rule: dict[str, Any] = {"clip_length": 3, "frame_interval_seconds": 0.5}
    for source in (
        f"{server.url}/",
        [f"{server.url}/{Path(path).name}?signature=x" for path in tars(server.folder)],
    ):
        order = StreamOrder(videos_at_once=1)
        clips = stream_clips(source, order=order, policy=QUICK, **rule)
        assert [content(clip) for clip in clips] == indexed(server.folder, **rule)
    assert ("two-00002.tar", "bytes=50000-99999") in server.asked
    assert all(asked is not None for _, asked in server.asked)


def contents_of_part(url: str, part: int) -> list[tuple[str, tuple[int, ...], tuple[bytes, ...]]]:
    order = StreamOrder(part=part, num_parts=2)
    return [content(clip) for clip in stream_clips(url, clip_length=2, order=order, policy=QUICK)]


@pytest.mark.medium
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"  # forking is what is tested
)
def test_worker_processes_stream_their_parts_also_after_the_parent_has(server, method):
    here = [contents_of_part(server.url, part) for part in range(2)]
    with multiprocessing.get_context(method).Pool(2) as pool:
        there = pool.starmap(contents_of_part, [(server.url, 0), (server.url, 1)])
    assert there == here
    assert all(here)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("failures", r"one-00001\.tar: 503.* given up after 2 attempts"),
        ("stalls", r"one-00001\.tar: nothing came for 3 s; given up after 2 attempts"),
    ],
)
def test_a_shard_that_keeps_failing_or_stalling_is_named(server, fault, message):
    getattr(server, fault)["one-00001.tar"] = 99
    policy = FetchPolicy(attempts=2, timeout_seconds=3 if fault == "stalls" else 60)
    with pytest.raises(ShardError, match=message):
        list(stream_clips(server.url, clip_length=1, policy=policy))


def test_what_is_missing_or_not_a_range_is_named(server: RangeServer):
    (server.folder / "two-00003.tar").unlink()
    with pytest.raises(ShardError, match=r"two-00003\.tar is missing"):
        list(stream_clips(server.url, clip_length=1, policy=QUICK))
    with pytest.raises(ShardError, match=r"/nothing/dataset\.json is missing"):
        list(stream_clips(f"{server.url}/nothing", policy=QUICK))
    server.ignores_ranges = True
    (server.folder / "one-00000.tar").write_bytes(bytes(9_000_000))
    with pytest.raises(ShardError, match=r"one-00000\.tar: the server sends more than the 419"):
        list(stream_clips([f"{server.url}/one-00000.tar?key=secret"], policy=QUICK))


MIB = 2**20


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"endless": True}, "the server sends more than the [0-9]+ bytes from 0 on"),
        ({"endless": True, "ignores_ranges": True}, "the server sends more than the [0-9]+ bytes"),
        ({"shifted": 512}, "asked for the bytes 0 to [0-9]+, the server answers with status 206"),
    ],
)
@pytest.mark.parametrize("size_known", [True, False])
def test_an_answer_without_end_or_of_another_range_is_refused(server, fault, message, size_known):
    for name, value in fault.items():
        setattr(server, name, value)
    source = server.url if size_known else [f"{server.url}/one-00000.tar"]
    with pytest.raises(ShardError, match=message) as caught:
        list(stream_clips(source, clip_length=1, policy=QUICK))
    assert "\n" not in str(caught.value)
    assert server.sent_bytes < 40 * MIB  # what lies in sockets, of two attempts at two ranges


def test_the_whole_file_for_a_later_range_is_refused_and_not_read(server, monkeypatch):
    monkeypatch.setattr(remote, "RANGE_BYTES", 4_096)
    server.ignores_ranges = True
    with pytest.raises(ShardError, match=r"status 200 and the range 'none'|sends more than the 4"):
        list(stream_clips([f"{server.url}/one-00000.tar"], clip_length=1, policy=QUICK))


@pytest.mark.parametrize("size_known", [True, False])
def test_what_the_server_says_is_told_and_tried_again(server, size_known):
    source = server.url if size_known else [f"{server.url}/one-00000.tar"]
    name = "dataset.json" if size_known else "one-00000.tar"
    server.failures[name] = server.head_failures[name] = 1  # fsspec asks by HEAD, then by GET
    assert list(stream_clips(source, clip_length=1, policy=QUICK))
    server.failures[name] = server.head_failures[name] = 99
    with pytest.raises(ShardError, match=rf"{name}: 503.*given up after 2 attempts"):
        list(stream_clips(source, policy=QUICK))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_cannot_be_reached_is_not_a_missing_file(server, scheme):
    """http: nothing listens there; https: the server there speaks no TLS."""
    port = server.url.rsplit(":", 1)[1] if scheme == "https" else unused_port()
    with pytest.raises(ShardError) as caught:
        list(stream_clips(f"{scheme}://127.0.0.1:{port}", policy=QUICK))
    assert "is missing" not in str(caught.value)
    assert "given up after 2 attempts" in str(caught.value)
    assert {"http": "Connect call failed", "https": "SSL"}[scheme] in str(caught.value)


def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def test_a_thread_that_cannot_start_is_said(built, monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert len(ShardIndex.open(built)) > 0  # needs none
    with pytest.raises(
        ShardError, match=r"dataset\.json: can't start new thread; given up after 2"
    ):
        list(stream_clips(str(built), policy=QUICK))


@pytest.mark.medium
@OF_S3_CLIENTS
def test_an_object_store_is_read(built, s3_folder):
    copy_into(s3_folder, built)
    rule: dict[str, Any] = {"clip_length": 3, "frame_interval_seconds": 0.5}
    clips = stream_clips(s3_folder, order=StreamOrder(videos_at_once=1), **rule)
    assert [content(clip) for clip in clips] == indexed(built, **rule)


@pytest.mark.medium
def test_a_reader_asks_no_further_ahead_than_it_is_told(server, monkeypatch):
    monkeypatch.setattr(remote, "RANGE_BYTES", 4_096)
    policy = FetchPolicy(ranges_ahead=3)
    stream = stream_clips(server.url, clip_length=1, policy=policy)
    next(stream)
    # The first 64 frames are of the shards 0 to 2; the one after those is asked for in advance.
    assert (server.folder / "one-00003.tar").stat().st_size > 10 * 4_096

    def num_asked():
        return sum(name == "one-00003.tar" for name, _ in server.asked)

    for _ in range(1_000):  # by threads, which may not have come to it yet
        if num_asked() >= 3:
            break
        time.sleep(0.02)
    assert num_asked() == 3


def damage_cases(data: bytes) -> dict[str, tuple[bytes, str]]:
    """Every kind of damage, with what the message says when dataset.json is not there."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
    pair, payload = members[20].offset, members[20].offset_data
    zero = members[-1].offset_data + 512
    return {
        "cut between samples": (data[:pair], "was cut: its end is missing"),
        "cut between members": (data[: members[21].offset], "was cut: its end is missing"),
        "cut in a header": (data[: pair + 100], "is damaged"),
        "cut in a payload": (data[: payload + 100], "was cut in"),
        "a flipped header byte": (
            data[:pair] + bytes([data[pair] ^ 1]) + data[pair + 1 :],
            "is damaged",
        ),
        "a zeroed page": (data[:pair] + bytes(4096) + data[pair + 4096 :], "does not end as"),
        "no end": (data[:zero], "was cut: its end is missing"),
        "one end block": (data[: zero + 512], "does not end as a tar does"),
        "more after the end": (data + b"x" * 512, "does not end as a tar does"),
    }


@pytest.mark.parametrize(
    "kind",
    [
        "cut between samples",
        "cut between members",
        "cut in a header",
        "cut in a payload",
        "a flipped header byte",
        "a zeroed page",
        "no end",
        "one end block",
        "more after the end",
    ],
)
def test_a_damaged_tar_is_named_without_any_index(directory, kind):
    path = directory / "one-00001.tar"
    damaged, message = damage_cases(path.read_bytes())[kind]
    path.write_bytes(damaged)
    with pytest.raises(ShardError, match=r"one-00001\.tar") as caught:
        list(stream_clips(tars(directory), clip_length=1))
    assert message in str(caught.value)


def test_a_flipped_payload_byte_is_found_where_dataset_json_is_known(directory):
    path = directory / "one-00001.tar"
    data = bytearray(path.read_bytes())
    data[512 + 300] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShardError, match=r"one-00001\.tar is not the shard that dataset\.json"):
        list(stream_clips(str(directory), clip_length=1))


class Bytes(io.BytesIO):
    name = "made-up"


def tar_of(*members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE) -> Bytes:
    out = Bytes()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, payload in members:
            info = tarfile.TarInfo(name)
            info.size, info.type = len(payload), kind
            tar.addfile(info, io.BytesIO(payload))
    out.seek(0)
    return out


JPEG = b"\xff\xd8\xff\xd9"
FIELDS = '{{"video_id": "a", "frame_index": {}, "pts_us": {}, "source_frame_rate": {}}}'


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.jpg", JPEG), ("b.json", b"{}")], "'a.jpg' is not followed by its .json"),
        ([("a.txt", JPEG), ("a.json", b"{}")], "'a.txt' is not followed by its .json"),
        ([("a.jpg", JPEG), ("a.json", b"[" * 50_000)], "a.json"),
        ([("a.jpg", JPEG), ("a.json", b"{" * 70_000)], "not a file of 1 to 65536 bytes"),
        ([("a.jpg", JPEG), ("a.json", FIELDS.format(1, -1, '"1/1"').encode())], "(pts_us: "),
        ([("a.jpg", JPEG), ("a.json", FIELDS.format("1e400", 1, '"1/1"').encode())], "a.json"),
        ([("a.jpg", JPEG), ("a.json", FIELDS.format(1, 1, '"1/0"').encode())], "frame_rate"),
        ([("a.jpg", JPEG), ("a.json", FIELDS.format(1, 1, '"1/1"').encode())], "another frame"),
        (
            [
                ("a-00000001.jpg", b"1234"),
                ("a-00000001.json", FIELDS.format(1, 1, '"1/1"').encode()),
            ],
            "a-00000001.jpg is not a whole JPEG",
        ),
    ],
)
def test_a_hostile_shard_is_refused_in_one_line(members, message):
    with pytest.raises(ShardError) as caught:
        list(read_samples(tar_of(*members)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_size_is_refused_before_anything_is_read():
    info = tarfile.TarInfo("a.jpg")
    info.size = 2**26 + 1
    source = Bytes(info.tobuf(tarfile.USTAR_FORMAT))
    with pytest.raises(ShardError, match="not a file of 1 to 67108864 bytes"):
        next(read_samples(source))
    with pytest.raises(ShardError, match=r"'a\.jpg' is not a file of"):
        next(read_samples(tar_of(("a.jpg", JPEG), kind=tarfile.SYMTYPE)))


def test_a_window_that_does_not_fit_in_memory_is_refused(built, monkeypatch):
    from wtours.shards import stream

    monkeypatch.setattr(stream, "_MAX_WINDOW_BYTES", 2**17)
    with pytest.raises(ShardError, match="the frames of one within a clip's span take"):
        list(stream_clips(str(built), clip_length=4))


def test_urls_that_are_not_shards_are_refused(built):
    for prefix in ("pipe:", "pipe://"):
        with pytest.raises(ShardError, match=r"pipe:.* (is missing|cannot be read)"):
            list(stream_clips([f"{prefix}touch {built}/pipe/one-00000.tar"]))
        with pytest.raises(ShardError, match=r"pipe:.* (is missing|cannot be read)"):
            list(stream_clips(f"{prefix}touch {built}/pipe"))
    assert not (built / "pipe").exists()
    with pytest.raises(ShardError, match=r"is not named <video_id>-<segment>\.tar"):
        list(stream_clips([f"{built}/index.parquet"]))
    with pytest.raises(ShardError, match="the list of URLs is empty"):
        list(stream_clips([]))
    with pytest.raises(ShardError, match="does not belong there"):
        list(stream_clips([copy_as(built, "one-00001.tar", "four-00001.tar")], clip_length=1))
    twice = [f"{built}/one-00001.tar", copy_as(built, "one-00001.tar", "one-00002.tar")]
    with pytest.raises(ShardError, match=r"one-00002\.tar: frame 30 of one at 1000000 us does not"):
        list(stream_clips(twice, clip_length=1))


def copy_as(built: Path, name: str, other: str) -> str:
    return str(shutil.copy(built / name, built.parent / other))


def test_a_protocol_without_its_client_names_the_package(monkeypatch):
    import fsspec.core

    def absent(url: str, **options: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", absent)
    with pytest.raises(MissingPackageError, match=r"needs aiohttp.*wtours\[stream\]"):
        list(stream_clips("http://127.0.0.1/set"))
    with pytest.raises(MissingPackageError, match=r"s3://set.* needs s3fs.*wtours\[s3\]"):
        list(stream_clips("s3://set"))
    with pytest.raises(ShardError, match=r"odd://set/dataset\.json cannot be read: Install s3fs"):
        list(stream_clips("odd://set"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"part": 2, "num_parts": 2}, r"part \(2\) must be 0 to 1"),
        ({"passes": 0}, "passes must be >= 1 or None, got 0"),
        ({"start_stride": 0}, "start_stride must be >= 1, got 0"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        StreamOrder(**options)


def test_a_policy_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="must be >= 1"):
        FetchPolicy(attempts=0)
