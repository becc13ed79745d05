"""The spine: render a walk, write the video and its truth."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from wtours.errors import MissingPackageError, WtoursError
from wtours.media.encode import open_encoder
from wtours.progress import Progress, no_progress
from wtours.storage.atomic import atomic_path, remove
from wtours.synthetic.ground_truth import TRUTH_NAME, TruthWriter
from wtours.synthetic.spec import WalkSpec


def render_walk(
    spec: WalkSpec,
    video_path: Path,
    *,
    truth_path: Path | None = None,
    on_progress: Progress = no_progress,
) -> None:
    """Render a walk to an MP4 file (H.264, yuv420p, BT.709), and its truth beside it.

    Both appear whole, the truth first, or not at all. The same spec gives the same bytes.

    Args:
        spec: What to render.
        video_path: The MP4 to write; an existing file is replaced.
        truth_path: The truth directory to write, or None for no truth; an older truth there is
            replaced. The files in it: the docstring of `wtours.synthetic`.
        on_progress: Told the seconds of video done after each frame.

    Raises:
        MissingPackageError: opencv is not installed.
        WtoursError: `truth_path` is something other than a truth, the disk is full, or ffmpeg
            failed.
    """
    try:
        from wtours.synthetic.scene import render_frames
    except ModuleNotFoundError as error:
        if error.name != "cv2":
            raise
        raise MissingPackageError(
            "opencv-python-headless", "analyze", "rendering a walk"
        ) from error
    if truth_path is not None and truth_path.exists() and not (truth_path / TRUTH_NAME).is_file():
        raise WtoursError(
            f"{truth_path} exists and is not the truth of a walk; choose another truth_path"
        )
    with contextlib.ExitStack() as stack:
        video = stack.enter_context(atomic_path(video_path))
        truth = None
        if truth_path is not None:
            directory = stack.enter_context(_replaced_directory(truth_path))
            truth = stack.enter_context(contextlib.closing(TruthWriter(directory, spec)))
        with open_encoder(
            video, size=(spec.width, spec.height), frame_rate=spec.frame_rate
        ) as write:
            for frame_index, frame in enumerate(render_frames(spec)):
                write(frame.image)
                if truth is not None:
                    truth.add(frame_index, frame)
                done = float((frame_index + 1) / spec.frame_rate)
                on_progress(video_path.name, done, spec.seconds)
        if truth is not None:
            truth.finish()


@contextlib.contextmanager
def _replaced_directory(path: Path) -> Iterator[Path]:
    """Yield a directory to fill; it takes the place of an older one when it is whole."""
    with atomic_path(path) as temp:
        yield temp
        remove(path)
