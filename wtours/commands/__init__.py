"""The commands; `wtours.cli` gathers them."""
