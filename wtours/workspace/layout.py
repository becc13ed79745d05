"""Every path under the root is computed here, nowhere else.

<root>/videos/<video_id>/<video_id>.<ext>   receipt.json  info.json
<root>/videos/ATTRIBUTION.md
<root>/analysis/<video_id>/                 frames.parquet  shots.parquet  detections.parquet
                                            summary.json  receipt.json  measurements/
<root>/shards/<name>/                       <video_id>-00000.tar …  index.parquet  dataset.json
                                            ATTRIBUTION.md  receipts/
<root>/runs/<name>/                         config.yaml  metrics.jsonl  checkpoints/  figures/
                                            eval/  tensorboard/
<root>/rendered/                            walks that we drew (`wtours.synthetic.demo`)
<root>/cache/                               identity/ (can be deleted at any time)
<root>/reports/                             table6.md|csv|json  figure2.png|svg|pdf  report.html
                                            runs.html
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wtours.errors import UsageError
from wtours.storage.atomic import RECEIPT_FILE, RECEIPTS_FOLDER
from wtours.storage.store import as_location
from wtours.text import docs_page

OWN_MANIFEST = "wtours.toml"
"""The user's own manifest, which commands find in the current folder and those above it."""
FRAMES_FILE = "frames.parquet"
SHOTS_FILE = "shots.parquet"
DETECTIONS_FILE = "detections.parquet"
"""Of an analysis, and of its measurements."""
MEASUREMENTS_FOLDER = "measurements"
SECONDS_FILE = "seconds.parquet"
"""Of the measurement `quality`."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class Layout:
    """The workspace on disk: `Layout(root).video_dir("venice")`.

    Raises:
        UsageError: the root is the URL of an object store.
    """

    root: Path

    def __post_init__(self) -> None:
        root = as_location(self.root)
        if isinstance(root, str):
            raise UsageError(
                f"{root} is an object store, and this works on a disk: give a folder as --root; "
                f"{docs_page('howto/object-stores')} says which commands take a URL"
            )
        object.__setattr__(self, "root", root)  # a str is taken too

    @property
    def videos_dir(self) -> Path:
        """Return the folder of all downloaded videos."""
        return self.root / "videos"

    def video_dir(self, video_id: str) -> Path:
        """Return the folder of one downloaded video."""
        return self.videos_dir / video_id

    def video_receipt(self, video_id: str) -> Path:
        """Return the receipt that makes a video exist."""
        return self.video_dir(video_id) / RECEIPT_FILE

    def analysis_dir(self, video_id: str) -> Path:
        """Return the folder of one video's analysis tables."""
        return self.root / "analysis" / video_id

    def analysis_receipt(self, video_id: str) -> Path:
        """Return the receipt that makes an analysis exist."""
        return self.analysis_dir(video_id) / RECEIPT_FILE

    def shards_dir(self, name: str) -> Path:
        """Return the folder of the shard set `name`."""
        return self.root / "shards" / checked_name(name, "shard set")

    def run_dir(self, name: str) -> Path:
        """Return the folder of the training run `name`."""
        return self.root / "runs" / checked_name(name, "run")

    def identity(self, video_id: str) -> Path:
        """Return what notes which file on this disk a video's sha256 was last measured of."""
        return self.root / "cache" / "identity" / f"{video_id}.json"

    @property
    def reports_dir(self) -> Path:
        """Return the folder of Table 6, Figure 2 and the page."""
        return self.root / "reports"

    @property
    def rendered_dir(self) -> Path:
        """Return the folder of rendered walks and their truth (used by `wtours demo`)."""
        return self.root / "rendered"

    def lock(self, stage: str) -> Path:
        """Return the lock file of a stage, for example "download"."""
        return self.root / "locks" / f"{stage}.lock"


def loose_files(root: Path, folders: Iterable[str], last: str) -> Iterator[str]:
    """Yield the files of some folders that no receipt speaks of, those named `last` at the end."""
    paths = [p for folder in folders for p in sorted((root / folder).glob("[!.]*")) if p.is_file()]
    for path in sorted(paths, key=lambda path: path.name == last):
        if path.suffix != ".tar" and path.parent.name != RECEIPTS_FOLDER:
            yield path.relative_to(root).as_posix()


def checked_name(name: str, what: str) -> str:
    """Return `name` if it is safe as a folder name.

    Raises:
        UsageError: it has characters other than letters, digits, `_` and `-`.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{what} name {name!r}: use 1 to 64 letters, digits, '_' or '-', "
            f"starting with a letter or digit"
        )
    return name


def find_own_manifest(folder: Path) -> Path | None:
    """Return the `wtours.toml` of the folder or the nearest one above it; None: there is none."""
    places = (parent / OWN_MANIFEST for parent in (folder, *folder.parents))
    return next((path for path in places if path.is_file()), None)
