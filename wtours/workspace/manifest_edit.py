"""Editing the user's own manifest: a new video, or the sha256 of files that were validated.

tomlkit keeps comments, order and quoting; a byte order mark, CRLF and a symbolic link stay too.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import tomlkit
from tomlkit.items import AoT

from wtours.errors import ManifestError
from wtours.storage.atomic import sweep_idle, write_bytes
from wtours.storage.locks import lock
from wtours.workspace.manifest import FORMAT, VideoEntry, is_builtin, parse_manifest, read_manifest


def add_video(path: Path, entry: VideoEntry) -> None:
    """Append a video to the manifest at `path`, which is made if it does not exist.

    Raises:
        ManifestError: the manifest is built in, cannot be used, or has a video of that id.
    """

    def append(text: str) -> str:
        if text and entry.id in parse_manifest(text.encode(), path).by_id:
            raise ManifestError(f"{path} has a video {entry.id!r} already; choose another --id")
        values = entry.model_dump(mode="json", exclude_defaults=True)
        if not text:
            text = tomlkit.dumps({"format": FORMAT, "name": path.stem})
        document = tomlkit.parse(text)
        if isinstance(document.get("video", AoT([])), AoT):
            # As text, since tomlkit puts no empty line before a table that it appends.
            return f"{text.rstrip()}\n\n{tomlkit.dumps({'video': [values]})}"
        document["video"].append(values)
        return tomlkit.dumps(document)

    _edit(path, append, may_be_new=True)


def pin_videos(path: Path, sha256_by_id: Mapping[str, str]) -> list[str]:
    """Write the sha256 of videos into the manifest at `path`; return the ids whose entry changed.

    Raises:
        ManifestError: the manifest is built in or cannot be used.
    """
    changed: list[str] = []

    def pin(text: str) -> str:
        document = tomlkit.parse(text)
        for row in document["video"]:
            sha256 = sha256_by_id.get(row["id"])
            if sha256 is not None and row.get("sha256") != sha256:
                row["sha256"] = sha256
                changed.append(str(row["id"]))
        return tomlkit.dumps(document) if changed else text

    _edit(path, pin)
    return changed


def _edit(path: Path, change: Callable[[str], str], *, may_be_new: bool = False) -> None:
    """Replace the manifest by its changed text, once that is a manifest too."""
    if is_builtin(path):
        raise ManifestError(
            f"{path} comes with wtours; copy it to a file of your own and give that: "
            f"--manifest FILE.toml"
        )
    file = path.resolve()  # a link stays a link
    # Two commands at once would each publish the old text with its own change.
    with lock(file.with_name(f".{file.name}.lock"), what=f"the manifest {path}", wait_seconds=60):
        data = b"" if may_be_new and not file.exists() else read_manifest(file)
        if data:
            parse_manifest(data, path)
        text = data.decode("utf-8-sig")
        is_windows = "\r\n" in text
        before = text.replace("\r\n", "\n")
        after = change(before)
        if after == before:
            return
        encoded = (after.replace("\n", "\r\n") if is_windows else after).encode()
        if data.startswith(b"\xef\xbb\xbf"):
            encoded = b"\xef\xbb\xbf" + encoded
        parse_manifest(encoded, path)
        sweep_idle(file.parent)
        write_bytes(file, encoded)
