"""Settings of a training run and presets; imports no torch."""
