"""Writing into the user's own manifest: a new walk, or the sha256 of files that are proved right.

The text is edited, so that comments and order stay; the result is read back by `load_manifest` and
must differ in nothing else before it is published.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wtours.errors import ManifestError
from wtours.storage.atomic import atomic_path
from wtours.workspace.manifest import FORMAT, VideoEntry, is_builtin, load_manifest

_TABLE = re.compile(r"^\s*\[", re.MULTILINE)
_VIDEO_TABLE = re.compile(r"^\s*\[\[\s*video\s*\]\][^\n]*$", re.MULTILINE)
_DEFAULTS = {"domain": "unknown", "license_claimed": "unknown"}


def add_video(path: Path, entry: VideoEntry) -> None:
    """Append a video to the manifest at `path`, which is made if it is not there.

    Raises:
        ManifestError: the manifest is built in, cannot be used, or has a video of that id.
    """
    _refuse_builtin(path)
    if path.exists():
        if entry.id in load_manifest(path).by_id:
            raise ManifestError(f"{path} has a video {entry.id!r} already; choose another --id")
        text = path.read_text(encoding="utf-8").rstrip("\n") + "\n"
    else:
        text = f"format = {FORMAT}\nname = {_toml(path.stem)}\n"
    values = entry.model_dump(exclude_none=True)
    lines = [f"{key} = {_toml(v)}" for key, v in values.items() if _DEFAULTS.get(key) != v]
    _publish(path, text + "\n[[video]]\n" + "\n".join(lines) + "\n")


def pin_videos(path: Path, sha256_by_id: Mapping[str, str]) -> list[str]:
    """Write the sha256 of videos into the manifest at `path`; return the ids whose entry changed.

    Raises:
        ManifestError: the manifest is built in, or is written in a form that cannot be edited.
    """
    _refuse_builtin(path)
    by_id = load_manifest(path).by_id
    changed = [id for id, sha256 in sha256_by_id.items() if by_id[id].sha256 != sha256]
    if not changed:
        return []
    text = path.read_text(encoding="utf-8")
    expected = tomllib.loads(text)
    for row in expected["video"]:
        if row["id"] in changed:
            row["sha256"] = sha256_by_id[row["id"]]
    for video_id in changed:
        text = _with_sha256(text, video_id, sha256_by_id[video_id])
    if tomllib.loads(text) != expected:
        raise ManifestError(
            f"{path} is not written as one [[video]] table for each video; "
            + "add by hand: "
            + "; ".join(f'{id}: sha256 = "{sha256_by_id[id]}"' for id in changed)
        )
    _publish(path, text)
    return changed


def _with_sha256(text: str, video_id: str, sha256: str) -> str:
    for header in _VIDEO_TABLE.finditer(text):
        start = header.end()
        following = _TABLE.search(text, start)
        end = following.start() if following else len(text)
        table = text[start:end]
        if not re.search(rf"^\s*id\s*=\s*[\"']{video_id}[\"']", table, re.MULTILINE):
            continue
        line = f'sha256 = "{sha256}"'
        table, replaced = re.subn(r"^\s*sha256\s*=[^\n]*$", line, table, flags=re.MULTILINE)
        if not replaced:
            table = f"\n{line}" + table
        return text[:start] + table + text[end:]
    return text


def _publish(path: Path, text: str) -> None:
    with atomic_path(path) as temp:
        temp.write_text(text, encoding="utf-8")
        load_manifest(temp)


def _refuse_builtin(path: Path) -> None:
    if is_builtin(path):
        raise ManifestError(
            f"{path} comes with wtours; copy it to a file of your own and give that: "
            f"--manifest FILE.toml"
        )


def _toml(value: Any) -> str:
    """Return a string, a number or a sequence of them in TOML, whose strings JSON's are."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
