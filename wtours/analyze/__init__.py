"""Lightness, cuts and objects of a video in one decode pass (docs/reference/tables.md: files)."""
