"""Clips and images for training: decoding, crops, batches."""
