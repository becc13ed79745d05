"""Object detectors, each behind the `Network` Protocol."""
