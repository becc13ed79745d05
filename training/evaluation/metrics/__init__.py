"""Metrics, computed from arrays."""
