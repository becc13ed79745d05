"""Receipts: a thing exists only if its receipt exists and matches.

The receipt is written last, by the commit rule of `wtours.storage.atomic`. It says what a thing
was made from (`inputs`, `params`, `versions`), what it is (`files`, `facts`) and how it ended
(`status`).
"""

import importlib.metadata
import os
import stat
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

import wtours
from wtours.storage.atomic import read_bytes, write_json
from wtours.storage.hashing import digest, sha256_file
from wtours.storage.os_errors import explain_os_errors
from wtours.storage.working_copy import commit, working_copy_of

SCHEMA = 1
Status = Literal["done", "failed_transient", "failed_permanent"]


def inside_name(name: str) -> str:
    """Return the name of a file inside a folder, "/" between its parts, as it is.

    Raises:
        ValueError: it is absolute or leads out of the folder: whoever joins it to the folder would
            read, or delete, a file elsewhere.
    """
    # No PurePosixPath: a large set has a million names, and it would take half of their time.
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or name[0] == "/" or ".." in parts or "\\" in name or "\0" in name:
        raise ValueError(f"{name[:80]!r} is not the name of a file inside the folder")
    return name


def _beside_receipt(name: str) -> str:
    """Return a path of a record as it is: inside the receipt's folder, or `../NAME`.

    The receipt of a shard lies in a folder of its own beside the shard.
    """
    parent, _, rest = name.partition("../")
    inside_name(rest if not parent and "/" not in rest else name)
    return name


class FileRecord(BaseModel):
    """One published file; `path` is relative to the receipt's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Annotated[str, AfterValidator(_beside_receipt)]
    bytes: Annotated[int, Field(ge=0)]
    sha256: str


class Receipt(BaseModel):
    """What `receipt.json` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA
    stage: str
    """Which stage wrote it: "download", "analyze", "shard", …"""
    key: str
    """What it is of, for example the video id."""
    status: Status = "done"
    error: str | None = None
    """The one-line reason when the status is not "done"."""
    inputs: dict[str, str] = {}
    """sha256 of everything that it was made from, by name."""
    params: dict[str, Any] = {}
    """Every parameter that changes the bytes."""
    versions: dict[str, str] = {}
    """Versions of the packages that made it."""
    files: tuple[FileRecord, ...] = ()
    facts: dict[str, Any] = {}
    """Stage-specific figures; docs/reference/tables.md and docs/reference/shards.md list them."""

    def file(self, suffix: str) -> FileRecord:
        """Return the only published file whose path ends with `suffix`."""
        (record,) = (file for file in self.files if file.path.endswith(suffix))
        return record


def record_file(path: Path, *, relative_to: Path) -> FileRecord:
    """Return size and sha256 of a published file."""
    return FileRecord(
        path=path.relative_to(relative_to).as_posix(),
        bytes=path.stat().st_size,
        sha256=sha256_file(path),
    )


def write_receipt(path: Path, receipt: Receipt) -> None:
    """Publish a receipt; call it after everything that it speaks of is published.

    In a working copy of an object store, all of it is published there too.

    Raises:
        ConflictError: another process has published something else there.
    """
    write_json(path, receipt.model_dump(mode="json"))
    commit(path)


def read_receipt(path: Path) -> Receipt | None:
    """Return the receipt at `path`, or None if there is none that can be read.

    A receipt that is absent, empty, torn, tampered with or of another schema is none: the work is
    done again.

    Raises:
        StorageError: the file system refuses to read it, so that nobody can tell.
    """
    try:
        return parse_receipt(read_bytes(path))
    except FileNotFoundError:
        return None


def parse_receipt(text: bytes) -> Receipt | None:
    """Return the receipt of its bytes, or None if they are none."""
    try:
        receipt = Receipt.model_validate_json(text)
    except ValidationError:
        return None
    return receipt if receipt.schema_version == SCHEMA else None


def is_current(path: Path, *, inputs: dict[str, str], params: dict[str, Any]) -> bool:
    """Return whether `path` is a "done" receipt of these inputs and params, with its files there.

    Files are compared by size (cheap); `wtours verify --deep` compares the sha256 of shards.
    """
    receipt = read_receipt(path)
    return (
        receipt is not None
        and receipt.status == "done"
        and digest([receipt.inputs, receipt.params]) == digest([inputs, params])
        and files_present(receipt, path.parent)
    )


def files_present(receipt: Receipt, folder: Path) -> bool:
    """Return whether every file of the receipt is in `folder` with its size."""
    return all(_size(f"{folder}/{file.path}") == file.bytes for file in receipt.files)


def files_intact(receipt: Receipt, folder: Path) -> bool:
    """Return whether every file of the receipt is in `folder`, byte for byte."""
    return files_present(receipt, folder) and all(
        sha256_file(folder / file.path) == file.sha256 for file in receipt.files
    )


def versions_of(*packages: str) -> dict[str, str]:
    """Return the versions of wtours and of the named packages, for a receipt."""
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {"wtours": wtours.__version__, **versions}


def _size(path: str) -> int | None:
    try:
        found = os.stat(path)  # noqa: PTH116 -- see `inside_name`
    except FileNotFoundError:
        found = None
    except OSError:
        with explain_os_errors(Path(path)):
            raise
    if found is not None and stat.S_ISREG(found.st_mode):
        return found.st_size
    copy = working_copy_of(Path(path))
    return None if copy is None else copy.size(Path(path))
