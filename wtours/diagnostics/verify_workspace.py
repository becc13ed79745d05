"""`wtours verify --all`: every file that a receipt vouches for, compared by its bytes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from wtours.errors import ShardError, StorageError, UsageError
from wtours.layers.verify import verify_layer
from wtours.progress import Progress, no_progress
from wtours.shards.index import ShardIndex
from wtours.shards.layers.schema import LAYER_FILE, LAYERS_FOLDER, read_layer_file
from wtours.shards.schema import DATASET_FILE
from wtours.shards.verify import ShardProblem, verify_shards
from wtours.storage.atomic import RECEIPT_FILE, TEMP_PREFIX
from wtours.storage.receipts import FileRecord, read_receipt
from wtours.storage.working_copy import place_of, store_of
from wtours.workspace.layout import Layout
from wtours.workspace.videos import is_sound

_MAX_RECEIPT_BYTES = 64 * 2**20
ONE_OF = {
    "videos": "video",
    "analyses": "analysis",
    "measurements": "measurement",
    "shard sets": "shard set",
    "layers": "layer",
    "checkpoints": "checkpoint",
}
"""The kinds of what is verified, and what one of each is called."""
_KINDS = {
    "videos": f"videos/*/{RECEIPT_FILE}",
    "analyses": f"analysis/*/{RECEIPT_FILE}",
    "measurements": f"analysis/*/measurements/*/{RECEIPT_FILE}",
    "shard sets": f"shards/*/{DATASET_FILE}",
    "layers": f"shards/*/{LAYERS_FOLDER}/*/{LAYER_FILE}",
    "checkpoints": f"runs/*/checkpoints/step-*/{RECEIPT_FILE}",
}


class _Receipt(BaseModel):
    """What a stage's receipt and a checkpoint's have in common."""

    status: str = "done"
    files: tuple[FileRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkspaceReport:
    """What was checked, and what is wrong with it."""

    counts: dict[str, int]
    """By kind: videos, analyses, shard sets, layers, checkpoints."""
    bytes: int
    problems: tuple[ShardProblem, ...]
    """Files relative to the root."""


def verify_workspace(layout: Layout, *, on_progress: Progress = no_progress) -> WorkspaceReport:
    """Read every published file under the root and compare it with its receipt.

    `on_progress` is called with the kind, and how many of it are done and there are.
    """
    counts: dict[str, int] = {}
    problems: list[ShardProblem] = []
    num_bytes = 0
    for kind, pattern in _KINDS.items():
        found = sorted(layout.root.glob(pattern))
        receipts = [p for p in found if not any(part.startswith(TEMP_PREFIX) for part in p.parts)]
        counts[kind] = len(receipts)
        for number, path in enumerate(receipts, 1):
            check = {DATASET_FILE: _shard_set, LAYER_FILE: _layer}.get(path.name, _receipt_files)
            checked_bytes, wrong = check(path)
            if kind == "videos" and checked_bytes and not wrong:
                wrong = _video(path)
            num_bytes += checked_bytes
            folder = path.parent.relative_to(layout.root)
            problems += [ShardProblem(str(folder / p.file), p.message) for p in wrong]
            on_progress(kind, number, len(receipts))
    problems += [
        ShardProblem(
            str(folder.relative_to(layout.root)), f"has no {RECEIPT_FILE}: it is not whole"
        )
        for folder in sorted(layout.root.glob("runs/*/checkpoints/step-*"))
        if not (folder / RECEIPT_FILE).exists()
    ]
    return WorkspaceReport(counts, num_bytes, tuple(problems))


def _shard_set(path: Path) -> tuple[int, list[ShardProblem]]:
    try:
        report = verify_shards(place_of(path.parent))
    except ShardError as error:
        return 0, [ShardProblem(DATASET_FILE, str(error))]
    return report.num_bytes, list(report.problems)


def _layer(path: Path) -> tuple[int, list[ShardProblem]]:
    set_folder, name = path.parents[2], path.parent.name
    try:
        file = read_layer_file(set_folder, name)
        problems = verify_layer(ShardIndex.open(set_folder), name)
    except (ShardError, UsageError) as error:
        return 0, [ShardProblem(LAYER_FILE, str(error))]
    return sum(shard.bytes for shard in file.shards), problems


def _video(path: Path) -> list[ShardProblem]:
    """Return what the stages would refuse in the receipt of a video whose files are as it says."""
    video_id = path.parent.name
    receipt = read_receipt(path)
    if receipt is not None and is_sound(receipt, video_id):
        return []
    what = f"states what no stage accepts; run `wtours download --video {video_id}` again"
    return [ShardProblem(RECEIPT_FILE, what)]


def _receipt_files(path: Path) -> tuple[int, list[ShardProblem]]:
    """Return the bytes that a receipt vouches for, and what is wrong with them."""
    try:
        if path.stat().st_size > _MAX_RECEIPT_BYTES:
            raise ValueError(f"larger than {_MAX_RECEIPT_BYTES} bytes")
        receipt = _Receipt.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = "is not a receipt" if isinstance(error, ValidationError) else str(error)
        return 0, [ShardProblem(RECEIPT_FILE, f"cannot be read ({reason}); run the stage again")]
    if receipt.status != "done":
        return 0, []
    problems = [ShardProblem(*found) for found in _file_problems(path.parent, receipt.files)]
    return sum(file.bytes for file in receipt.files), problems


def _file_problems(folder: Path, files: tuple[FileRecord, ...]) -> Iterator[tuple[str, str]]:
    for record in files:
        if Path(record.path).is_absolute() or ".." in Path(record.path).parts:
            yield RECEIPT_FILE, f"names a file outside of its folder: {record.path}"
            continue
        store, key = store_of(folder / record.path)
        try:
            found = store.stat(key)
            if found is None:
                yield record.path, "is missing"
            elif found.bytes != record.bytes:
                yield record.path, f"has {found.bytes} bytes instead of {record.bytes}"
            elif store.sha256(key, is_read=True) != record.sha256:
                yield record.path, "has another sha256 than its receipt says"
        except (OSError, StorageError) as error:
            yield record.path, f"cannot be read ({error})"
