"""`python -m wtours` is the console script `wtours`."""

from wtours.cli.app import main

main()
