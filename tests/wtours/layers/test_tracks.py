"""Tables and tracks made elsewhere: exact times, interpolation, gaps, and hostile files."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.shard_set import write_shard_set
from wtours.errors import ShardError, UsageError, WtoursError
from wtours.layers.external import external_source
from wtours.layers.make import make_layer
from wtours.layers.tracks import read_track
from wtours.shards import ShardIndex
from wtours.shards.layers.layer import Layer

FRAMES = 12


@pytest.fixture
def index(tmp_path):
    """Return the index of a set with one video of a frame a second."""
    return ShardIndex.open(write_shard_set(tmp_path / "set", num_frames=FRAMES))


def read(index, path, **options):
    """Make a layer and return its values, NaN where a frame has none."""
    source = external_source(index, path, **options)
    make_layer(index, "pose", source, origin=f"external:{path}")
    values = Layer.open(index, "pose").read(range(len(index)))
    width = max(len(value) for value in values if value is not None)
    return np.array([np.full(width, np.nan) if v is None else v for v in values])


def gpx(points, head=""):
    body = "".join(
        f'<trkpt lat="{lat}" lon="{lon}"><ele>{ele}</ele><time>{time}</time></trkpt>'
        for time, lat, lon, ele in points
    )
    return (
        f'<?xml version="1.0"?>{head}<gpx xmlns="http://www.topografix.com/GPX/1/1">'
        f"<trk><trkseg>{body}</trkseg></trk></gpx>"
    )


def test_rows_are_of_the_frames_at_their_times_in_any_order(index, tmp_path):
    order = np.random.default_rng(0).permutation(FRAMES)
    for column in ({"pts_us": order * 1_000_000}, {"time": order + 0.0004}):
        table = pa.table({**column, "x": order * 2.0, "y": order})
        pq.write_table(table, tmp_path / "pose.parquet")
        expected = np.column_stack([np.arange(FRAMES) * 2.0, np.arange(FRAMES)])
        np.testing.assert_array_equal(read(index, tmp_path / "pose.parquet"), expected)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"pts_us": np.arange(FRAMES) * 1_000_000 + 33_333, "x": np.ones(FRAMES)}, "no frame"),
        ({"pts_us": np.arange(1, FRAMES + 1) * 1_000_000, "x": np.ones(FRAMES)}, "no frame"),
        ({"pts_us": np.arange(FRAMES - 1) * 1_000_000, "x": np.ones(FRAMES - 1)}, "1 of 12 frames"),
        ({"pts_us": [0, 0], "x": [1.0, 2.0]}, "two rows of one frame"),
        ({"time": [float("nan")] * 2, "x": [1.0, 2.0]}, "time in time is not finite"),
        ({"time": [1e300], "x": [1.0]}, "no frame"),
        ({"time": ["a"], "x": [1.0]}, "must have pts_us or time"),
        ({"time": [0.0], "pts_us": [0], "x": [1.0]}, "must have pts_us or time"),
        ({"time": [0.0]}, "must have pts_us or time"),
        (
            {"time": [0.0], "x": ["../../etc"]},
            "columns of numbers, perhaps video_id; it has time .double., x",
        ),
        ({"time": [0.0], "x": [None]}, "must have|null"),
        ({"video_id": ["rome"], "time": [0.0], "x": [1.0]}, "is of 'rome', which"),
        ({"video_id": [["a"]], "time": [0.0], "x": [1.0]}, "video_id .list"),
        ({"video_id": [3], "time": [0.0], "x": [1.0]}, "video_id .int64."),
        (
            {"video_id": ["street", None], "time": [0.0, 1.0], "x": [1.0, 2.0]},
            "is of 'None', which",
        ),
    ],
)
def test_tables_of_other_frames_or_columns_are_refused(index, tmp_path, columns, said):
    pq.write_table(pa.table(columns), tmp_path / "pose.parquet")
    with pytest.raises(ShardError, match=said) as refused:
        external_source(index, tmp_path / "pose.parquet")
    assert "\n" not in str(refused.value)


def test_a_gpx_is_interpolated_in_time_and_over_the_date_line(index, tmp_path):
    points = [
        ("2024-05-01T10:00:00Z", 50.0, 179.0, 100),
        ("2024-05-01T10:00:04+00:00", 54.0, -177.0, 140),
        ("2024-05-01T12:00:08+02:00", 50.0, 179.0, 100),
        ("2024-05-01T10:00:12Z", 50.0, 179.0, 100),
    ]
    path = tmp_path / "walk.gpx"
    path.write_text(gpx(points))
    values = read(index, path)
    np.testing.assert_allclose(values[:5, 0], [50, 51, 52, 53, 54])
    np.testing.assert_allclose(values[:5, 1], [179, -180, -179, -178, -177], atol=1e-9)
    np.testing.assert_allclose(values[4:9, 2], [140, 130, 120, 110, 100])
    later = read(index, path, start="2024-05-01T10:00:00.5Z")
    np.testing.assert_allclose(later[:3, 0], [50.5, 51.5, 52.5])


def test_frames_outside_a_track_or_in_its_gap_have_no_value(index, tmp_path):
    path = tmp_path / "imu.csv"
    path.write_text("time, ax,ay\n2,1,10\n2,9,99\n3,2,20\n\n9.0,8,80\n11,10,100\n")
    with pytest.raises(ShardError, match="7 of 12 frames have no value, the first street at 0 s"):
        external_source(index, path)
    values = read(index, path, allow_missing=True)
    known = np.flatnonzero(~np.isnan(values[:, 0]))
    assert known.tolist() == [2, 3, 9, 10, 11]
    np.testing.assert_allclose(values[known], [[1, 10], [2, 20], [8, 80], [9, 90], [10, 100]])
    values = read(index, path, allow_missing=True, max_gap_seconds=6)
    np.testing.assert_allclose(values[2:, 0], np.arange(1, 11))
    values = read(index, path, allow_missing=True, start="2")
    assert np.flatnonzero(~np.isnan(values[:, 0])).tolist() == [0, 1, 7, 8, 9]


def test_a_frame_at_the_last_point_and_a_gap_of_just_the_longest_are_inside(index, tmp_path):
    index.pts_us[:] = 33_367 * 60 * np.arange(FRAMES)  # 2.00202 s
    last = 33_367 * 60 * (FRAMES - 1)
    for thousandth in range(1, 1000, 7):
        begin = datetime(2024, 5, 1, 10, 0, 0, 1000 * thousandth, UTC)
        times = [begin, begin + timedelta(microseconds=last)]
        path = tmp_path / "walk.gpx"
        path.write_text(gpx([(time.isoformat(), 50, 8, 100) for time in times]))
        external_source(index, path, max_gap_seconds=last / 1e6)  # refuses a frame without a value
    path = tmp_path / "imu.csv"
    path.write_text("time,ax\n" + "".join(f"{k / 10},{k}\n" for k in range(300)))
    index.pts_us[:] = 50_000 + 100_000 * np.arange(FRAMES)
    external_source(index, path, max_gap_seconds=0.1)


def test_an_elevation_that_is_not_there_is_not_0(index, tmp_path):
    points = [(f"2024-05-01T10:00:{k:02d}Z", 50 + k, 8, 100) for k in range(0, 14, 2)]
    path = tmp_path / "walk.gpx"
    path.write_text(gpx(points).replace("<ele>100</ele>", "", 3))
    values = read(index, path)
    assert np.flatnonzero(np.isnan(values[:, 2])).tolist() == [0, 1, 2, 3, 4, 5]
    np.testing.assert_array_equal(values[6:, 2], 100)
    np.testing.assert_allclose(values[:, 0], 50 + np.arange(FRAMES))


def test_two_tracks_of_a_video_and_numbers_that_would_be_rounded_are_refused(index, tmp_path):
    folder = tmp_path / "tracks"
    folder.mkdir()
    (folder / "street.csv").write_text("time,x\n0,1\n20,2\n")
    (folder / "street.gpx").write_text(gpx([("2024-05-01T10:00:00Z", 50, 8, 1)]))
    with pytest.raises(ShardError, match=r"street\.gpx and .*street\.csv are of one video"):
        external_source(index, folder)
    path = tmp_path / "stamps.parquet"
    stamps = pa.array([2**53 + 1] * FRAMES, pa.int64())
    pq.write_table(pa.table({"pts_us": index.pts_us, "stamp_ns": stamps}), path)
    with pytest.raises(ShardError, match=r"stamp_ns has whole numbers beyond 2\^53"):
        external_source(index, path)
    path = tmp_path / "far.csv"
    path.write_text("time,x\n0,1\n1e300,2\n")
    with pytest.raises(ShardError, match=r"point 2 is at 1e\+300 s"):
        external_source(index, path)


BOMB = (
    '<!DOCTYPE gpx [<!ENTITY a "'
    + "x" * 1000
    + '">'
    + "".join(f'<!ENTITY {b} "{f"&{a};" * 100}">' for a, b in ("ab", "bc", "cd"))
    + "]>"
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (gpx([("2024-05-01T10:00:00Z", 1, 1, 1)], head=BOMB), "has a DTD"),
        (gpx([], head='<!DOCTYPE gpx SYSTEM "file:///etc/passwd">'), "has a DTD"),
        (gpx([]), "has no point with a time"),
        (gpx([("2024-05-01T10:00:00Z", "nan", 1, 1)]), "point 1 is at lat nan"),
        (gpx([("2024-05-01T10:00:00Z", 91, 1, 1)]), "point 1 is at lat 91"),
        (gpx([("2024-05-01T10:00:00Z", 1, 1, "inf")]), "no finite number"),
        (gpx([("yesterday", 1, 1, 1)]), "is no GPX track"),
        (
            gpx([("2024-05-01T10:00:01Z", 1, 1, 1), ("2024-05-01T10:00:00Z", 1, 1, 1)]),
            "point 2 is earlier",
        ),
        ("<gpx>", "is no GPX track"),
        ("\0" * 100, "is no GPX track"),
        ("", "is no GPX track"),
    ],
)
def test_a_hostile_gpx_is_one_line(tmp_path, text, said):
    path = tmp_path / "walk.gpx"
    path.write_text(text)
    with pytest.raises(ShardError, match=said) as refused:
        read_track(path)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must have the column time .seconds. .* it has none"),
        ("t,x\n0,1\n", "it has t, x"),
        ("time\n0\n", "it has time"),
        ("time,x,x\n0,1,1\n", "each once"),
        ("time,x\nnan,1\n", "row 2: 'nan' is no finite number"),
        ("time,x\n0,1\n1,inf\n", "row 3: 'inf' is no finite number"),
        ("time,x\n0\n", "row 2: 1 cells"),
        ("time,x\n0,hello\n", "row 2: could not convert"),
        ("time,x\n1,1\n0,1\n", "point 2 is earlier"),
        ("time," + ",".join(f"x{n}" for n in range(100)) + "\n", "100 columns"),
        ("time,x\n0," + "1" * 200_000 + "\n", "row 2: field larger"),
        ("time,x\n", "no point with a time"),
    ],
)
def test_a_hostile_csv_is_one_line(tmp_path, text, said):
    path = tmp_path / "imu.csv"
    path.write_text(text)
    with pytest.raises(ShardError, match=said) as refused:
        read_track(path)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("start", ["yesterday", "nan", "2024-05-01T10:00:00Z"])
def test_a_start_that_is_no_moment_of_the_track_is_refused(index, tmp_path, start):
    path = tmp_path / "imu.csv"
    path.write_text("time,x\n0,1\n20,1\n")
    with pytest.raises(UsageError, match="--start"):
        external_source(index, path, start=start, max_gap_seconds=60)


@pytest.mark.parametrize("name", ["x.npy", "x.parquet", "x.gpx", "x.txt", "none.parquet", "empty"])
def test_what_is_no_layer_is_one_line(index, tmp_path, name):
    (tmp_path / "empty").mkdir()
    if not name.startswith(("none", "empty")):
        (tmp_path / name).write_bytes(b"\x93NUMPY\x01\x00garbage")
    with pytest.raises(WtoursError) as refused:
        external_source(index, tmp_path / name)
    assert "\n" not in str(refused.value)
