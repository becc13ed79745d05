"""The command line: one module a group of commands; the entry point is `wtours.cli:main`."""

import sys


def main() -> None:
    """Run the command line (the console script `wtours`)."""
    try:
        from wtours.cli.app import main as run  # `import wtours.cli.console` stays cheap
    except KeyboardInterrupt:  # while the commands are imported
        sys.exit(130)
    run()
