"""Evaluations of patch tokens: segmentation, object discovery, video object segmentation."""
