"""`python -m wtours` is the console script `wtours`."""

from wtours.cli import main

main()
