"""The systems of the fault table, each started as its users start it: a process of its own."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
VIDEO2DATASET = "VIDEO2DATASET"
"""Names the environment variable with the path of that program; installing it takes 6 GB."""
MAX_MEGABYTES = 64
"""Told to both as the largest video; those that are served have 2."""
_VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".ts")
_WITH_SITE = "from tests.support.fake_youtube import known_site\nwith known_site():\n    {}\n"


@dataclass(frozen=True, slots=True)
class System:
    """One way to fetch videos from a list of URLs into a folder."""

    name: str
    is_ours: bool = False
    knows_site: bool = True
    """The stand-in for YouTube can be given to it."""

    def start(self, folder: Path, urls: Mapping[str, str]) -> subprocess.Popen[str]:
        """Start fetching each URL under its name into `folder`; a second start is a second run."""
        folder.mkdir(exist_ok=True)
        return subprocess.Popen(
            self._command(folder, urls),
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finals(self, folder: Path) -> dict[str, Path]:
        """Return the files that stand in `folder` as finished videos, by the name of the URL."""
        found = {}
        for path in folder.rglob("*"):
            hidden = any(part.startswith((".", "_tmp")) for part in path.relative_to(folder).parts)
            if path.suffix in _VIDEO_SUFFIXES and not hidden:
                found[path.stem] = path
        return found

    def _command(self, folder: Path, urls: Mapping[str, str]) -> list[str]:
        if self.is_ours:
            manifest = folder.with_suffix(".toml")
            lines = ["format = 1", 'name = "faults"']
            for name, url in urls.items():
                lines += [
                    "[[video]]",
                    f'id = "{name}"',
                    f'title = "{name}"',
                    f'sources = ["{url}"]',
                ]
            manifest.write_text("\n".join(lines) + "\n")
            arguments = ["download", "--manifest", str(manifest), "--root", str(folder)]
            arguments += ["--allow-unknown-license", "--max-size", f"{MAX_MEGABYTES}M"]
            call = "import sys; from wtours.cli import main; main()"
            return [sys.executable, "-c", _WITH_SITE.format(call), *arguments]
        arguments = ["--ignore-config", "--no-plugin-dirs", "--no-cache-dir", "--quiet"]
        arguments += ["-f", "bv[height<=?720]/b[height<=?720]", "-P", str(folder)]
        arguments += ["--max-filesize", f"{MAX_MEGABYTES}M"]
        arguments += ["-o", "%(id)s.%(ext)s", *urls.values()]
        call = "import sys, yt_dlp; yt_dlp.main(sys.argv[1:])"
        return [sys.executable, "-c", _WITH_SITE.format(call), *arguments]


@dataclass(frozen=True, slots=True)
class Video2dataset(System):
    """video2dataset, from an installation of the user's."""

    program: str = ""

    def _command(self, folder: Path, urls: Mapping[str, str]) -> list[str]:
        listed = folder.with_suffix(".txt")
        listed.write_text("".join(f"{url}\n" for url in urls.values()))
        return [
            self.program,
            f"--url_list={listed}",
            f"--output_folder={folder}",
            "--output_format=files",
            "--input_format=txt",
            "--enable_wandb=False",
        ]

    def finals(self, folder: Path) -> dict[str, Path]:
        """Return the finished videos by the name of their URL: it numbers them in their order."""
        names = [Path(line).stem for line in folder.with_suffix(".txt").read_text().split()]
        numbered = System.finals(self, folder)
        return {names[int(number) % 10_000]: path for number, path in numbered.items()}


def systems() -> list[System]:
    """Return wtours and the peers that can be run here."""
    found = [System("wtours", is_ours=True), System("yt-dlp alone")]
    program = os.environ.get(VIDEO2DATASET)
    if program:
        found.append(Video2dataset("video2dataset", knows_site=False, program=program))
    return found
