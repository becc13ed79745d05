"""Figures and videos of what an encoder attends to."""
