"""Mutate small videos and read each as `add`, `analyze` and `shard` do; a process of its own.

    python -m tests.fuzz.fuzz_video FOLDER RUNS SEED

FOLDER holds the videos to mutate. What is being read lies in FOLDER/mutants, and stays there if the
process dies of it. Prints the peak of its memory in bytes.
"""

import faulthandler
import random
import resource
import sys
import time
from pathlib import Path

from tests.fuzz.mutation import mutate_bytes
from wtours.errors import WtoursError
from wtours.media.probe import probe_video
from wtours.media.reader import open_video

MAX_SECONDS = 20
"""Of a processor; by the clock it may be more on a machine that is busy."""
_HANG_SECONDS = 300
_MAX_FRAMES = 300


def read(path: Path) -> None:
    """Read a file in every way that the stages do; what is refused is refused."""
    try:
        facts = probe_video(path, max_loss=1)
        with open_video(path, threads=1) as video:
            for frame, _ in zip(video.frames(), range(_MAX_FRAMES), strict=False):
                frame.to_jpeg_planes(48)
                frame.to_bgr()
            video.undecoded_pts_us(0, facts.duration_us)
            middle_us = facts.duration_us // 2
            for frame, _ in zip(video.frames(middle_us), range(30), strict=False):
                frame.to_rgb(32)
    except WtoursError as error:
        if "\n" in str(error):
            raise AssertionError("a refusal is one line") from error


def main() -> None:
    """Read so many mutants of the folder's files."""
    folder, runs, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    rng = random.Random(seed)
    sources = sorted(path for path in folder.iterdir() if path.is_file())
    mutants = folder / "mutants"
    mutants.mkdir(exist_ok=True)
    for run in range(runs):
        source = sources[run % len(sources)]
        path = mutants / f"{seed}_{run}{source.suffix}"
        path.write_bytes(mutate_bytes(source.read_bytes(), rng))
        faulthandler.dump_traceback_later(_HANG_SECONDS, exit=True)
        begun = time.process_time()
        read(path)
        faulthandler.cancel_dump_traceback_later()
        seconds = time.process_time() - begun
        assert seconds < MAX_SECONDS, f"{path} took {seconds:.0f} s"
        path.unlink()
    sys.stdout.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}\n")


if __name__ == "__main__":
    main()
