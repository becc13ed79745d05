"""Manifests: the list of videos we may use, with where they are and what is claimed of them.

A manifest is a TOML file; `manifests/walking_tours.toml` is the default and `manifests/demo.toml`
is what `wtours demo` renders. A manifest is data: it cannot pass options to any program, and its
`file:` sources stay inside the folder given on the command line (`wtours.acquire.local_files`
sees to that).
"""

import re
import tomllib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from wtours.errors import ManifestError
from wtours.text import VIDEO_ID, listed, redact_url
from wtours.workspace.source_url import checked_source

FORMAT = 1
MAX_BYTES = 4 * 2**20
_PACKAGED = Path(__file__).parents[1] / "manifests"
_IN_CHECKOUT = Path(__file__).parents[2] / "manifests"
# tomllib's time grows with the square of a dotted key's parts: 100 kB would take a minute.
_LONG_KEY = re.compile(r"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*\.[ \t]*){32}""")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def _plain_text(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError(f"{redact_url(text)!r} has control characters")
    return text


PlainText = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_plain_text)]
Source = Annotated[str, AfterValidator(_plain_text), AfterValidator(checked_source)]
Side = Annotated[int, Field(gt=0, le=2**20)]
_ID_PATTERN = f"^{VIDEO_ID}$"
VideoId = Annotated[str, Field(pattern=_ID_PATTERN)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PublishedFigures(_Strict):
    """A row of the paper's Table 6, to be printed beside what is measured."""

    frames_thousands: float = Field(gt=0)
    minutes: float = Field(gt=0)
    shots: int = Field(ge=0)
    """The paper's "#shots": the number of cuts."""
    objects_per_frame: float = Field(ge=0)
    classes: int = Field(ge=0)


class RenderedWalk(_Strict):
    """How `wtours demo` renders this video (see `wtours.synthetic.WalkSpec`)."""

    seconds: float = Field(gt=0, le=36_000)
    width: int = Field(default=640, ge=64, le=4096, multiple_of=2)
    height: int = Field(default=360, ge=64, le=4096, multiple_of=2)
    frame_rate: int = Field(default=30, ge=1, le=120)
    seed: int = Field(default=0, ge=0)
    cut_seconds: tuple[float, ...] = ()


class VideoEntry(_Strict):
    """One video of a manifest."""

    id: VideoId
    """Names the video everywhere: no dots and no dashes, since a WebDataset key ends at a dot."""
    title: PlainText
    sources: tuple[Source, ...] = Field(min_length=1)
    """URLs, tried in order; `file:NAME` is a file in the folder given on the command line.

    Each is a `SourceUrl`: as text it shows no secret.
    """
    chapters: tuple[Source, ...] = ()
    """Files that continue the recording of the one `file:` source, joined behind it in order."""
    domain: PlainText = "unknown"
    license_claimed: PlainText = "unknown"
    """What the dataset's authors claim; what a download observes stands in its receipt."""
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Demanded of the file, if given."""
    duration_seconds: float | None = Field(default=None, gt=0, le=1e9)
    """Expected of the file, if given, within 2 s or 1 %; so are the next two."""
    frame_rate: str | None = Field(default=None, pattern=r"^[1-9]\d{0,8}(/[1-9]\d{0,8})?$")
    """Frames per second, for example "60000/1001"."""
    resolution: tuple[Side, Side] | None = None
    """Width and height, upright, of the largest version; a smaller one of its shape is right."""
    stream: int | None = Field(default=None, ge=0, le=9999)
    """Which video stream of the file to take, as ffprobe numbers it, where it has several."""
    published: PublishedFigures | None = None
    rendered: RenderedWalk | None = None

    @model_validator(mode="after")
    def _chapters_are_files(self) -> Self:
        are_files = all(source.startswith("file:") for source in (*self.sources, *self.chapters))
        if self.chapters and not (len(self.sources) == 1 and are_files):
            raise ValueError("chapters go with one file: source, and are file: sources themselves")
        return self


class Manifest(_Strict):
    """A validated manifest."""

    format: int = Field(ge=FORMAT, le=FORMAT)
    name: PlainText
    videos: tuple[VideoEntry, ...] = Field(alias="video", min_length=1)
    selections: dict[VideoId, tuple[str, ...]] = {}
    """Named lists of video ids, for example wt_all."""
    path: Path
    """Where it was read from."""

    @cached_property
    def by_id(self) -> dict[str, VideoEntry]:
        """Return the entries by id."""
        return {video.id: video for video in self.videos}

    def select(self, names: Sequence[str] = ()) -> tuple[VideoEntry, ...]:
        """Return the entries named by id or by selection, each once, in manifest order; () is all.

        Raises:
            ManifestError: a name is neither.
        """
        if not names:
            return self.videos
        wanted: set[str] = set()
        for name in names:
            if name not in self.by_id and name not in self.selections:
                known = listed([*self.by_id, *self.selections], like=name)
                raise ManifestError(f"no video {name!r} in manifest {self.name}; it has {known}")
            wanted.update(self.selections.get(name, (name,)))
        return tuple(video for video in self.videos if video.id in wanted)


def load_manifest(path: Path | None = None) -> Manifest:
    """Read and validate a manifest; None reads the ten Walking Tours.

    A bare name such as `demo` or `walking_tours` means the built-in manifest of that name.

    Raises:
        ManifestError: it is missing, is not TOML, or an entry is invalid; names the entry.
    """
    path = _resolve(path)
    return parse_manifest(read_manifest(path), path)


def read_manifest(path: Path) -> bytes:
    """Return the bytes of a manifest.

    Raises:
        ManifestError: it is missing, or too large for a manifest.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        known = ", ".join(builtin_manifests())
        raise ManifestError(
            f"cannot read manifest {path} ({error.strerror}); built in are: {known}"
        ) from error
    if len(data) > MAX_BYTES:
        raise ManifestError(f"{path} is larger than {MAX_BYTES} bytes; that is no manifest")
    return data


def parse_manifest(content: bytes, path: Path) -> Manifest:
    """Validate the bytes of a manifest; a byte order mark is skipped.

    Raises:
        ManifestError: it is not TOML, or an entry is invalid; names `path` and the entry.
    """
    too_deep = f"{path} is nested too deeply for a manifest"
    try:
        text = content.decode("utf-8-sig")
        if _LONG_KEY.search(text):
            raise ManifestError(too_deep)
        data = tomllib.loads(text)
    except RecursionError as error:
        raise ManifestError(too_deep) from error
    except ValueError as error:  # not TOML, not UTF-8, or a number of thousands of digits
        raise ManifestError(f"{path} is not TOML: {str(error)[:200]}") from error
    try:
        manifest = Manifest.model_validate({**data, "path": path})
    except ValidationError as error:
        raise ManifestError(f"{path}: {_first_problem(error, data)}") from error
    _check_ids(manifest)
    return manifest


def builtin_manifests() -> list[str]:
    """Return the names of the manifests that come with wtours."""
    return sorted(path.stem for path in _builtin_folder().glob("*.toml"))


def is_builtin(path: Path) -> bool:
    """Return whether `path` names a manifest that comes with wtours."""
    return _resolve(path).resolve().parent == _builtin_folder().resolve()


def new_entry(**values: Any) -> VideoEntry:
    """Return an entry made of the user's words.

    Raises:
        ManifestError: one of them cannot stand in a manifest.
    """
    try:
        return VideoEntry(**values)
    except ValidationError as error:
        # The user gave the source itself, and knows no field of that name.
        raise ManifestError(_first_problem(error, values).removeprefix("sources: 0: ")) from error


def _resolve(path: Path | None) -> Path:
    if path is None:
        return _builtin_folder() / "walking_tours.toml"
    if path.suffix == "" and str(path) in builtin_manifests():
        return _builtin_folder() / f"{path}.toml"
    return path


def _builtin_folder() -> Path:
    return _PACKAGED if _PACKAGED.is_dir() else _IN_CHECKOUT


def _check_ids(manifest: Manifest) -> None:
    seen: set[str] = set()
    for video in manifest.videos:
        if video.id in seen:
            raise ManifestError(f"{manifest.path}: video {video.id}: the id is used twice")
        seen.add(video.id)
    for name, ids in manifest.selections.items():
        if name in seen:
            raise ManifestError(f"{manifest.path}: selection {name} has the name of a video")
        for video_id in ids:
            if video_id not in seen:
                raise ManifestError(
                    f"{manifest.path}: selection {name} names {video_id!r}, which is no video of it"
                )


def _first_problem(error: ValidationError, data: dict[str, Any]) -> str:
    """Return one line that names the entry by its id and the field."""
    problem = error.errors()[0]
    where = [str(part) for part in problem["loc"]]
    if len(where) > 1 and where[0] == "video":
        entry = data["video"][int(where[1])]
        name = entry.get("id", f"number {int(where[1]) + 1}") if isinstance(entry, dict) else "?"
        where = [f"video {str(name)[:80]!r}", *where[2:]]
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = "unknown key"
    elif problem["type"] == "string_pattern_mismatch":
        pattern, value = problem["ctx"]["pattern"], str(problem["input"])[:80]
        message = f"{value!r} does not match {pattern}"
        if pattern == _ID_PATTERN:
            message = f"{value!r} is no id: use 1 to 64 of a-z, 0-9 and _"
    return f"{': '.join(where)}: {message}"
