"""The man page, where it has been made (`make man`), goes into the sdist and the wheel.

It is not committed: it is made of the command line, which needs the dependencies, and an isolated
build has none of them. A wheel built of an sdist takes the sdist's.
"""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MAN_PAGE = "docs/_build/man/wtours.1"


class CustomBuildHook(BuildHookInterface[Any]):
    """Adds one file to what hatchling packs."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the man page to the distribution that is being built."""
        if (page := Path(self.root) / MAN_PAGE).is_file() and version != "editable":
            if self.target_name == "wheel":
                build_data["shared_data"][str(page)] = "share/man/man1/wtours.1"
            else:
                build_data["force_include"][str(page)] = MAN_PAGE
