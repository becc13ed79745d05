"""The commands that measure a trained encoder, and those that reproduce the paper."""
