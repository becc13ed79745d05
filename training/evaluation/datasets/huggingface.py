"""Labeled images in a dataset that `datasets` saved on disk (`Dataset.save_to_disk`)."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from training.data.image_files import MAX_IMAGE_BYTES, StoredFile, read_file
from wtours.errors import ImageDataError, MissingPackageError
from wtours.text import counted, first_line

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
        self.path = path
        self._spec = spec
        self._image, self._label, self._names = self._columns()

    def unlisted(self) -> "SavedImages":
        """Return the same images without their list, for another process to read."""
        return SavedImages(self.path, self._spec)

    def files(self) -> list[StoredFile]:
        """Return an image for each row, in their order, named <class>/<row>.

        A slash in a class's name becomes an underscore, or %2F where that would be another class.

        Raises:
            ImageDataError: a label that is none of the dataset's classes, or too large an image.
        """
        names = [name.replace("/", "_") for name in self._names]
        if len(set(names)) < len(names):
            names = [name.replace("%", "%25").replace("/", "%2F") for name in self._names]
        found = []
        for row, label in enumerate(self._rows[self._label]):
            if label is None or not 0 <= label < len(names):
                raise ImageDataError(
                    f"{self._spec}: row {row} has label {label}, which is none of the "
                    f"{counted(len(names), 'class', 'classes')} (0 to {len(names) - 1})"
                )
            size = self._sizes[row]
            if size > MAX_IMAGE_BYTES:
                raise ImageDataError(
                    f"{self._spec}: image of row {row} has more than {MAX_IMAGE_BYTES} bytes"
                )
            found.append(StoredFile(f"{names[label]}/{row:08d}", size, row))
        return found

    def read(self, file: StoredFile) -> bytes:
        """Return the encoded image of a row.

        Raises:
            ImageDataError: the row has no image, or refers to a file that cannot be read.
        """
        try:
            image = self._rows[file.place][self._image]
        except Exception as error:  # pyarrow's, by the kind of damage
            reason = first_line(error)
            raise ImageDataError(
                f"{self._spec}: row {file.place} cannot be read ({reason})"
            ) from error
        if image is None:
            raise ImageDataError(f"{self._spec}: row {file.place} has no image")
        if image["bytes"] is not None:
            return bytes(image["bytes"])
        try:
            return read_file(Path(image["path"]))
        except ImageDataError as error:
            raise ImageDataError(f"{self._spec}: image of row {file.place}: {error}") from error

    def read_all(self, files: Sequence[StoredFile]) -> Iterator[tuple[StoredFile, bytes]]:
        """Yield each row's image in their order."""
        return ((file, self.read(file)) for file in files)

    @cached_property
    def _rows(self) -> Any:
        datasets = _datasets()
        try:
            rows = datasets.load_from_disk(str(self.path))
        except Exception as error:  # of pyarrow, of fsspec, of what `datasets` makes of its JSON
            reason = first_line(error)
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
        names = list(features[labels[0]].names or ())
        if not all(isinstance(name, str) for name in names):
            raise ImageDataError(f"{self._spec} has classes whose names are no texts")
        return images[0], labels[0], names


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingPackageError("datasets", "eval", "reading a saved dataset") from error
    return datasets
