"""Files of images: which are taken for one, their bytes, and where they lie in a tar."""

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from wtours.errors import ImageDataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
MAX_IMAGE_BYTES = 64 * 2**20
"""No encoded image is larger; a size above it is refused before anything is read."""


def is_image(name: str) -> bool:
    """Return whether a file, with or without its folders, is named as an image and not hidden."""
    file = PurePosixPath(name)
    return not file.name.startswith(".") and file.suffix.lower() in SUFFIXES


def read_file(path: Path) -> bytes:
    """Return what is in a file; of one that is larger than any image, the beginning.

    Raises:
        ImageDataError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(MAX_IMAGE_BYTES)
    except OSError as error:
        raise ImageDataError(f"{path} cannot be read ({error.strerror})") from error


def regular_members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the headers of the files in a tar, from front to back."""
    for member in tar:
        # Else it keeps every header: a gigabyte for ImageNet.
        tar.members.clear()  # type: ignore[attr-defined]
        if member.isreg() and not member.issparse():
            yield member


def plain_members(path: Path) -> Iterator[tuple[str, int, int]]:
    """Yield name, offset and size of each file in a tar that can be read in any order.

    Raises:
        ImageDataError: it is no tar, or a compressed one.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            for member in regular_members(tar):
                yield member.name, member.offset_data, member.size
    except (tarfile.TarError, OSError) as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        raise ImageDataError(
            f"{path} is neither a folder nor an uncompressed tar, which can be read in any order "
            f"({reason}); unpack it, or store it as a plain .tar"
        ) from error
