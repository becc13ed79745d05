"""Readers of the evaluations' data sets."""
