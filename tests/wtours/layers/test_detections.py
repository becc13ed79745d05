"""Boxes of an analysis that is made again while they are read."""

import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.shard_set import write_shard_set
from wtours.errors import ShardError
from wtours.layers.detections import DetectionSource
from wtours.shards import ShardIndex
from wtours.storage.receipts import Receipt, record_file, write_receipt
from wtours.workspace.layout import Layout


def write_analysis(folder, index, *, looked_at, stream=None):
    """Publish an analysis whose detector found a box in each frame that it looked at."""
    folder.mkdir(parents=True)
    video, pts_us = index.dataset.videos[0], index.pts_us.tolist()
    measured = [number in looked_at for number in range(len(pts_us))]
    pq.write_table(
        pa.table({"pts_us": pts_us, "objects_measured": measured}), folder / "frames.parquet"
    )
    boxes = {"pts_us": [pts_us[number] for number in looked_at]}
    of_each = {"label": "car", "score": 0.5, "x0": 1.0, "y0": 2.0, "x1": 3.0, "y1": 4.0}
    boxes |= {name: [value] * len(looked_at) for name, value in of_each.items()}
    pq.write_table(pa.table(boxes), folder / "detections.parquet")
    receipt = Receipt(
        stage="analyze",
        key=video.video_id,
        inputs={"video": video.source_sha256} | ({"stream": stream} if stream else {}),
        files=tuple(record_file(path, relative_to=folder) for path in sorted(folder.iterdir())),
    )
    write_receipt(folder / "receipt.json", receipt)


def test_boxes_of_one_analysis_are_not_put_into_the_frames_of_another(tmp_path, monkeypatch):
    index = ShardIndex.open(write_shard_set(tmp_path / "set", num_frames=6))
    layout, other = Layout(tmp_path), tmp_path / "other"
    folder = layout.analysis_dir("street")
    write_analysis(folder, index, looked_at=range(6))
    write_analysis(other, index, looked_at=[0, 3])
    boxes = DetectionSource(index, layout)
    read = pq.read_table

    def read_while_it_is_made_again(*args, **kwargs):
        table = read(*args, **kwargs)
        shutil.copytree(other, folder, dirs_exist_ok=True)
        return table

    monkeypatch.setattr(pq, "read_table", read_while_it_is_made_again)
    # Frames 1, 2, 4, 5 would have no box, as if the detector had found nothing there.
    with pytest.raises(ShardError, match="is not the table that was published"):
        DetectionSource(index, layout)
    monkeypatch.undo()
    assert boxes.labels == DetectionSource(index, layout).labels == ("car",)


def test_boxes_of_another_stream_of_the_file_are_not_of_the_frames(tmp_path):
    directory, layout = write_shard_set(tmp_path / "set", num_frames=6), Layout(tmp_path)
    index = ShardIndex.open(directory)
    video = index.dataset.videos[0]
    made_from = {"video": video.source_sha256, "stream": "1"}
    plan = Receipt(stage="shard", key=video.video_id, inputs=made_from)
    write_receipt(directory / "receipts" / f"{video.video_id}.json", plan)
    folder = layout.analysis_dir(video.video_id)
    write_analysis(folder, index, looked_at=range(6), stream="0")
    with pytest.raises(ShardError, match=r"no frame of .* was given to a detector"):
        DetectionSource(index, layout)
    shutil.rmtree(folder)
    write_analysis(folder, index, looked_at=range(6), stream="1")
    assert DetectionSource(index, layout).labels == ("car",)
