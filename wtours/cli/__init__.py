"""The command line: one module a group of commands; the entry point is `wtours.cli:main`."""


def main() -> None:
    """Run the command line (the console script `wtours`)."""
    from wtours.cli.app import main as run  # `import wtours.cli.console` stays cheap

    run()
