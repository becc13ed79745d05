"""The rendered walks of a manifest: the videos, their truth, and labeled images cut from them.

<root>/rendered/<video_id>.mp4
                <video_id>.receipt.json
                truth/<video_id>/                 see `wtours.synthetic`
                detections/<video_id>.parquet     the truth as precomputed detections
                crops/{train,val}/<label>/        objects cut out, for k-NN
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import simplejpeg
from numpy.typing import NDArray

from wtours.analyze.schema import DEFAULT_CUT_DETECTOR, PRECOMPUTED_COLUMNS, load_summary
from wtours.errors import UsageError
from wtours.progress import Progress, no_progress
from wtours.storage.atomic import atomic_path, remove, sweep
from wtours.storage.locks import lock
from wtours.storage.receipts import Receipt, is_current, record_file, versions_of, write_receipt
from wtours.synthetic import WalkSpec, load_truth, render_walk
from wtours.synthetic.eval_sets import labeled_frames
from wtours.workspace.layout import Layout
from wtours.workspace.manifest import RenderedWalk, VideoEntry

_CROPS_PER_LABEL = 40
_MIN_CROP_PIXELS = 24

Crops = dict[str, list[NDArray[np.uint8]]]
"""Images (H, W, 3) uint8 RGB by label."""


def render_walks(
    entries: Sequence[VideoEntry], layout: Layout, *, on_progress: Progress = no_progress
) -> list[Path]:
    """Render the entries that say how; return the videos. What is there already is not made again.

    Where there are two walks or more, objects are cut out of them: of the last for `val`, of the
    others for `train`.

    Raises:
        UsageError: no entry says how it is rendered.
        MissingPackageError: opencv is not installed.
    """
    walks = {entry.id: entry.rendered for entry in entries if entry.rendered is not None}
    if not walks:
        raise UsageError("no video of this manifest is a rendered walk; try --manifest demo")
    folder = layout.rendered_dir
    with lock(layout.lock("render"), what=f"the folder {folder}"):
        sweep(folder)
        missing = []
        for video_id, walk in walks.items():
            receipt = folder / f"{video_id}.receipt.json"
            params = WalkSpec(**walk.model_dump()).to_dict()
            if not is_current(receipt, inputs={}, params=params):
                missing.append(video_id)
        for video_id in missing:
            _render(folder, video_id, walks[video_id], on_progress)
        if len(walks) > 1 and (missing or not (folder / "crops").is_dir()):
            *train, val = walks
            _publish_crops(folder, train=train, val=[val])
    return [folder / f"{video_id}.mp4" for video_id in walks]


def cuts_beside_drawn(layout: Layout, video_ids: Iterable[str]) -> list[tuple[str, str, str]]:
    """Return (video id, drawn cuts, measured cuts) of analyzed rendered walks, as text."""
    return [
        (
            video_id,
            str(len(load_truth(layout.rendered_dir / "truth" / video_id).cuts)),
            str(load_summary(layout, video_id).cuts[DEFAULT_CUT_DETECTOR]),
        )
        for video_id in video_ids
    ]


def _render(folder: Path, video_id: str, walk: RenderedWalk, on_progress: Progress) -> None:
    spec, video = WalkSpec(**walk.model_dump()), folder / f"{video_id}.mp4"
    truth_dir = folder / "truth" / video_id
    render_walk(spec, video, truth_path=truth_dir, on_progress=on_progress)
    table = load_truth(truth_dir).detections.select([name for name, _ in PRECOMPUTED_COLUMNS])
    detections = folder / "detections" / f"{video_id}.parquet"
    with atomic_path(detections) as temp:
        pq.write_table(table.replace_schema_metadata({"detector": "rendered truth"}), temp)
    files = [video, detections, *sorted(truth_dir.iterdir())]
    receipt = Receipt(
        stage="render",
        key=video_id,
        params=spec.to_dict(),
        versions=versions_of("numpy"),
        files=tuple(record_file(path, relative_to=folder) for path in files),
    )
    write_receipt(folder / f"{video_id}.receipt.json", receipt)


def _publish_crops(folder: Path, *, train: Sequence[str], val: Sequence[str]) -> None:
    splits = {"train": _cut_out(folder, train), "val": _cut_out(folder, val)}
    labels = set(splits["train"]) & set(splits["val"])  # a label must vote and be voted on
    remove(folder / "crops")
    with atomic_path(folder / "crops") as temp:
        for split, crops in splits.items():
            for label in sorted(labels):
                target = temp / split / label
                target.mkdir(parents=True)
                for number, image in enumerate(crops[label]):
                    jpeg = simplejpeg.encode_jpeg(image, quality=95, colorsubsampling="444")
                    (target / f"{number:04d}.jpg").write_bytes(jpeg)


def _cut_out(folder: Path, video_ids: Sequence[str]) -> Crops:
    """Return the first images of each label: of a track at most one a second of video."""
    crops: Crops = defaultdict(list)
    for video_id in video_ids:
        for frame in labeled_frames(folder, video_id, every_us=1_000_000):
            _add_crops(crops, frame.rgb, frame.objects)
    return crops


def _add_crops(crops: Crops, rgb: NDArray[np.uint8], boxes: Sequence[dict[str, float]]) -> None:
    for box in boxes:
        x0, y0, x1, y1 = (int(box[name]) for name in ("x0", "y0", "x1", "y1"))
        if min(x1 - x0, y1 - y0) < _MIN_CROP_PIXELS:
            continue  # and no folder of a label of which all boxes are as small
        of_label = crops[str(box["label"])]
        if len(of_label) < _CROPS_PER_LABEL:
            of_label.append(np.ascontiguousarray(rgb[y0:y1, x0:x1]))
