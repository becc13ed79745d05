"""Painting the parts of a rendered walk: people, cars, houses, sky."""
