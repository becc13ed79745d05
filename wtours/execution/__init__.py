"""Mapping the tasks of a stage over processes."""
