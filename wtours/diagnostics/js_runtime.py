"""Other programs that the work needs: a JavaScript runtime, by which yt-dlp reads YouTube."""

import re
import shutil
import subprocess
from dataclasses import dataclass

_RUNTIMES = {"deno": 2, "node": 20}
"""The oldest major version of each that yt-dlp takes."""


@dataclass(frozen=True, slots=True)
class JsRuntime:
    """What was found; `found` in words."""

    found: str
    is_usable: bool


def find_js_runtime() -> JsRuntime:
    """Return the first runtime on the PATH that is new enough, or what is there instead."""
    too_old = []
    for name, oldest in _RUNTIMES.items():
        program = shutil.which(name)
        if program is None:
            continue
        version = _version(program)
        if version is not None and int(version.split(".")[0]) >= oldest:
            return JsRuntime(f"{name} {version}", is_usable=True)
        too_old.append(f"{name} {version or 'that does not run'}")
    return JsRuntime(", ".join(too_old) or "none", is_usable=False)


def _version(program: str) -> str | None:
    try:
        result = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"\d+(?:\.\d+)+", result.stdout)
    return match[0] if match else None
