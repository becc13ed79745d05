"""Evaluations of frozen backbones, one JSON result each."""
