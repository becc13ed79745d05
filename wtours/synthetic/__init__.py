"""Rendered walks: videos whose cuts, light and objects are known, because we drew them.

`render_walk(WalkSpec(...), video_path, truth_path=...)` draws a first-person walk through streets
of an endless city and writes it as H.264; `load_truth(truth_path)` reads what is true of it.

A street is houses, pavement and sky, seen by a camera that walks at 1.4 m/s, looks around and turns
at corners; people, dogs and cars move through it, parked cars, trees, benches, bicycles, traffic
lights and fire hydrants stand in it. A cut goes to another street under another sky. The camera's
exposure holds every image's mean luma at the same value; then the frame's lightness factor
multiplies the 8-bit R, G and B, so mean CIELAB L* follows the factor and nothing else.

The truth directory:

    truth.json           format (1), spec (all fields of WalkSpec), frame_rate ("30", "30000/1001"),
                         num_frames, num_tracks, cuts [{frame_index, pts_us}]: the first frame of
                         each new street
    frames.parquet       one row per frame, in order
        frame_index      int64    ordinal in the video, from 0
        pts_us           int64    microseconds from the first frame
        street           int32    cuts at or before the frame
        lightness        float32  the lightness factor, 0 to 1
    detections.parquet   one row per visible object and frame, by frame, far to near; usable as the
                         detector `file:PATH.parquet`
        frame_index      int64
        pts_us           int64
        label            string   person, car, dog, tree, bench, bicycle, traffic light,
                                  fire hydrant (COCO's names, and tree)
        score            float32  1.0
        x0 y0 x1 y1      float32  pixels; the tight bounds of the visible pixels, half-open:
                                  columns x0 to x1 - 1, rows y0 to y1 - 1
        track_id         int32    from 1; the same object in every frame; never across a cut
        mask             binary   the visible pixels inside the box: (y1 - y0) x (x1 - x0) bits, row
                                  by row without padding, highest bit first, compressed by zlib

An object is labeled when at least 1/5000 of the image's pixels show it (46 at 640x360).

What takes more room is computed of the spec when it is asked for, as the frames were: of the truth
that `load_truth` returns, `depth`, `flow`, `pose` and `instances` (`truth_files.py` writes them).
"""

from wtours.synthetic.ground_truth import WalkTruth, load_truth
from wtours.synthetic.render import render_walk
from wtours.synthetic.spec import WalkSpec

__all__ = ["WalkSpec", "WalkTruth", "load_truth", "render_walk"]
