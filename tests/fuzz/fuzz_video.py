"""Mutate small videos and read each as `add`, `analyze` and `shard` do; a process of its own.

    python -m tests.fuzz.fuzz_video FOLDER RUNS SEED

FOLDER holds the videos to mutate. What is being read lies in FOLDER/mutants, and stays there if the
process dies of it. Prints the peak of its memory in bytes.
"""

import faulthandler
import random
import resource
import sys
from pathlib import Path

from wtours.errors import WtoursError
from wtours.media.probe import probe_video
from wtours.media.reader import open_video

MAX_SECONDS = 20
_MAX_FRAMES = 300


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Return the bytes of a file with a few faults of one kind."""
    mutant = bytearray(data)
    kind = rng.choice(["bits", "zeros", "cut", "numbers", "splice", "header"])
    count = rng.choice([1, 3, 20])
    if kind == "cut":
        return data[: rng.randrange(1, len(data))]
    if kind == "splice":
        start, end = sorted(rng.randrange(len(data)) for _ in range(2))
        place = rng.randrange(len(data))
        return data[:place] + data[start:end] + data[place:]
    for _ in range(count):
        most = min(len(data), 4096) if kind == "header" else len(data)
        place = rng.randrange(most)
        if kind in ("bits", "header"):
            mutant[place] ^= 1 << rng.randrange(8)
        elif kind == "zeros":
            end = min(len(data), place + rng.randrange(1, len(data) // 3 + 2))
            mutant[place:end] = bytes(end - place)
        else:
            number = rng.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, rng.randrange(2**32)])
            mutant[place : place + 4] = number.to_bytes(4, rng.choice(["big", "little"]))
    return bytes(mutant)


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
        path.write_bytes(mutate(source.read_bytes(), rng))
        faulthandler.dump_traceback_later(MAX_SECONDS, exit=True)
        read(path)
        faulthandler.cancel_dump_traceback_later()
        path.unlink()
    sys.stdout.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}\n")


if __name__ == "__main__":
    main()
