"""Processes of a run: joining, collectives, failures."""
