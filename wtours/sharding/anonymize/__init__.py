"""Blurring faces before frames are encoded."""
