"""The commands that need no torch; `wtours.cli` gathers them."""
