"""What identifies the images that a result was measured on."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

from training.data.image_files import fingerprint
from training.distributed.collectives import gathered
from training.distributed.world import World
from training.evaluation.datasets.image_folder import ImageEntry, LabeledImages
from wtours.progress import Progress

_READERS = min(8, os.cpu_count() or 1)


def fingerprint_images(images: LabeledImages, world: World, on_progress: Progress) -> str:
    """Return the fingerprint of a split; each rank reads its share of the images."""
    entries = sorted(images.entries, key=lambda entry: entry.name)
    share = entries[world.rank :: world.world_size]

    def digest(entry: ImageEntry) -> str:
        return hashlib.sha256(images.read_one(entry)).hexdigest()

    digests = []
    with ThreadPoolExecutor(_READERS) as readers:
        for done, found in enumerate(readers.map(digest, share), start=1):
            digests.append(found)
            on_progress(f"reading {images.spec}", done, len(share))
    whole = [""] * len(entries)
    for rank, found_there in enumerate(gathered(digests)):
        whole[rank :: world.world_size] = found_there
    return fingerprint(
        (entry.name, entry.num_bytes, found) for entry, found in zip(entries, whole, strict=True)
    )


class FilesSeen:
    """Adds up the files that were read to the fingerprint of them all."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, str]] = {}

    def add(self, files: dict[str, bytes]) -> None:
        """Count these files in."""
        for name, data in files.items():
            self._seen[name] = len(data), hashlib.sha256(data).hexdigest()

    def fingerprint(self) -> str:
        """Return the fingerprint over the files, sorted by name."""
        return fingerprint((name, *facts) for name, facts in sorted(self._seen.items()))
