"""The commands that mend what a report is missing, such that they work when they are pasted."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from wtours.text import plain


@dataclass(frozen=True, slots=True)
class Remedy:
    """Words the commands with the options that the report was asked for with."""

    manifest: Path | None = None
    """None: the built-in one."""
    root: Path | None = None
    """None: the default."""

    def for_video(self, command: str, video_id: str) -> str:
        """Return for example "wtours download --manifest walks.toml --video my_walk"."""
        manifest = () if self.manifest is None else ("--manifest", str(self.manifest))
        return self._words(command, *manifest, "--video", video_id)

    def for_folder(self, folder: Path) -> str:
        """Return what analyses a folder of videos."""
        return self._words("analyze", "--from-dir", str(folder))

    def _words(self, *words: str) -> str:
        root = () if self.root is None else ("--root", str(self.root))
        return plain(shlex.join(["wtours", *words, *root]))


AS_BY_DEFAULT = Remedy()
