"""Losses and measures of collapse, as functions of tensors."""
