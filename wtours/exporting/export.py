"""The spine of `shards export`: unit by unit, each whole or absent, resumed where it stopped."""

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from wtours.errors import ShardError
from wtours.exporting.units import Exporter, Unit
from wtours.progress import Progress, no_progress
from wtours.shards.index import ShardIndex
from wtours.shards.schema import set_sha256
from wtours.storage.atomic import TEMP_PREFIX, read_json, sweep, write_json
from wtours.storage.locks import lock

EXPORT_FILE = "wtours-export.json"
LOCK_FILE = ".wtours-export.lock"


@dataclasses.dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export holds."""

    out: Path
    units: int
    kept: int
    """Units that an earlier run had written."""
    frames: int
    bytes: int
    """Of the frames as they are in the shards."""


def export_shards(
    index: ShardIndex, exporter: Exporter, out: Path, *, on_progress: Progress = no_progress
) -> ExportReport:
    """Write a shard set in another layout.

    `wtours-export.json` says what the folder is of; `finished` in it becomes true at the end.

    Args:
        index: The shard set.
        exporter: The layout and its options.
        out: A folder that is empty, or that an export of the same set and options has begun.
        on_progress: Called with the layout's name and the units done and in all.

    Raises:
        ShardError: the folder holds something else, or a shard is damaged.
        UsageError: an option makes no sense.
        WtoursError: another process writes there, or the disk is full.
    """
    units = exporter.units(index)
    what: dict[str, Any] = {
        "format": 1,
        "to": exporter.suffix,
        "options": vars(exporter),  # what else decides the files
        "set_sha256": set_sha256(index.dataset.shards),
        "index_sha256": index.dataset.index.sha256,
    }
    _require_own(out, what)
    with lock(out / LOCK_FILE, what=f"the export {out}"):
        for folder, _, _ in os.walk(out):  # DAVIS's list lies two folders down
            sweep(Path(folder))
        write_json(out / EXPORT_FILE, {**what, "finished": False})
        kept = 0

        def publish(unit: Unit) -> bool:
            was_there = exporter.is_done(index, unit, out)
            if not was_there:
                exporter.write(index, unit, out)
            return was_there

        with ThreadPoolExecutor(exporter.units_at_once) as pool:
            for done, was_there in enumerate(pool.map(publish, units), 1):
                kept += was_there
                on_progress(exporter.suffix, done, len(units))
        exporter.finish(index, units, out)
        sizes = [index.size[unit.rows.start : unit.rows.stop] for unit in units]
        counts = {
            "units": len(units),
            "frames": sum(map(len, sizes)),
            "bytes": sum(int(found.sum(dtype="int64")) for found in sizes),
        }
        write_json(out / EXPORT_FILE, {**what, "finished": True, **counts})
    return ExportReport(out, kept=kept, **counts)


def _require_own(out: Path, what: dict[str, Any]) -> None:
    """Refuse a folder that holds anything but this export, begun or finished."""
    if out.exists() and not out.is_dir():
        raise ShardError(f"{out} is not a folder; choose another --out")
    # Killed before it could say what it is of, an export leaves a lock and a hidden file.
    if not out.exists() or all(
        path.name == LOCK_FILE or path.name.startswith(TEMP_PREFIX) for path in out.iterdir()
    ):
        return
    try:
        found = read_json(out / EXPORT_FILE)
    except FileNotFoundError:
        found = None
    if not isinstance(found, dict):
        raise ShardError(f"{out} is not empty, and no export of wtours; choose another --out")
    for name, value in what.items():
        if found.get(name) != value:
            raise ShardError(
                f"{out} is an export of something else ({name} {found.get(name)!s:.80}, now "
                f"{value!s:.80}); choose another --out"
            )
