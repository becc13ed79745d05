"""Analysis: lightness, cuts and objects of a video in one decode pass (files: docs/tables.md)."""
