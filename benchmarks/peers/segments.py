"""What every engine does with a minute of video, and what is done to it meanwhile."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import av
import ray
import simplejpeg

SECONDS = 60
VICTIM = "two-1"
"""The segment whose process is killed, or that crashes it."""
_WORK_SECONDS = 2.0


def disturb(folder: str, fault: str, segment: str) -> None:
    """Say by a file that a segment is begun, and do to its process what the fault is."""
    mark = Path(folder) / "begun" / segment
    is_first = not mark.exists()
    mark.parent.mkdir(exist_ok=True)
    node = ray.get_runtime_context().get_node_id() if fault == "node" else ""
    temp = mark.with_name(f".{segment}-{os.getpid()}")
    temp.write_text(node)
    temp.rename(mark)
    time.sleep(_WORK_SECONDS)
    if segment == VICTIM and fault == "worker" and is_first:
        os.kill(os.getpid(), signal.SIGKILL)
    if segment == VICTIM and fault == "poison":
        os.kill(os.getpid(), signal.SIGSEGV)


def disturb_task(folder: str, fault: str, task: Any) -> None:
    """Do the same before a task of wtours."""
    disturb(folder, fault, f"{task.video_id}-{task.segment}")


def jpegs_of(path: str, number: int) -> list[bytes]:
    """Return the frames of a minute of a video."""
    start, jpegs = number * SECONDS, []
    with av.open(path) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        container.seek(int(start / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            assert frame.time is not None
            if frame.time >= start + SECONDS:
                break
            if frame.time >= start:
                rgb = frame.to_ndarray(format="rgb24")
                jpegs.append(simplejpeg.encode_jpeg(rgb, quality=90, colorsubsampling="420"))
    return jpegs
