"""Labeled images in a dataset that `datasets` saved on disk (`Dataset.save_to_disk`)."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from wtours.errors import ImageDataError, MissingPackageError

_FILES = ("state.json", "dataset_info.json")


def is_saved_dataset(path: Path) -> bool:
    """Return whether a folder is one split as `datasets` saves it.

    Raises:
        ImageDataError: it holds several splits; the message names them.
    """
    if (path / "dataset_dict.json").is_file():
        splits = sorted(child.name for child in path.iterdir() if is_saved_dataset(child))
        raise ImageDataError(f"{path} has several splits; name one: {path}/{{{','.join(splits)}}}")
    return all((path / name).is_file() for name in _FILES)


class SavedImages:
    """The rows of a saved dataset; it must have a column of images and one of class labels."""

    def __init__(self, path: Path, spec: str) -> None:
        self._path = path
        self._spec = spec
        self._image, self._label, self._names = self._columns()

    def names_and_sizes(self) -> Iterator[tuple[str, str, int]]:
        """Yield each row's class, its name (the row number), and the bytes of its image.

        Raises:
            ImageDataError: a label that is none of the dataset's classes.
        """
        for row, label in enumerate(self._rows[self._label]):
            if label is None or not 0 <= label < len(self._names):
                raise ImageDataError(
                    f"{self._spec}: row {row} has label {label}, which is none of the "
                    f"{len(self._names)} classes (0 to {len(self._names) - 1})"
                )
            yield self._names[label].replace("/", "_"), f"{row:08d}", self._sizes[row]

    def read_row(self, row: int) -> bytes:
        """Return the encoded image of a row.

        Raises:
            ImageDataError: the row refers to a file that cannot be read.
        """
        image = self._rows[row][self._image]
        if image is None:
            raise ImageDataError(f"{self._spec}: row {row} has no image")
        if image["bytes"] is not None:
            return bytes(image["bytes"])
        try:
            return Path(image["path"]).read_bytes()
        except OSError as error:
            raise ImageDataError(
                f"{self._spec}: image {image['path']} of row {row} cannot be read "
                f"({error.strerror})"
            ) from error

    @cached_property
    def _rows(self) -> Any:
        datasets = _datasets()
        try:
            rows = datasets.load_from_disk(str(self._path))
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = str(error).partition("\n")[0]
            raise ImageDataError(
                f"{self._spec} cannot be loaded as a dataset ({reason})"
            ) from error
        for name, feature in rows.features.items():
            if isinstance(feature, datasets.Image):
                rows = rows.cast_column(name, datasets.Image(decode=False))
        return rows

    @cached_property
    def _sizes(self) -> list[int]:
        """Return the bytes of each row's image; -1 where they are in a file of their own."""
        import pyarrow.compute as pc

        column = self._rows.with_format("arrow")[:][self._image]
        lengths = pc.binary_length(pc.struct_field(column, "bytes"))
        return [-1 if length is None else int(length) for length in lengths.to_pylist()]

    def _columns(self) -> tuple[str, str, list[str]]:
        datasets = _datasets()
        features = self._rows.features
        images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
        labels = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
        if len(images) != 1 or len(labels) != 1:
            raise ImageDataError(
                f"{self._spec} must have one column of images and one of class labels; it has "
                f"{len(images)} and {len(labels)} (columns: {', '.join(features)})"
            )
        return images[0], labels[0], list(features[labels[0]].names)


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingPackageError("datasets", "eval", "reading a saved dataset") from error
    return datasets
