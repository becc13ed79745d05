"""Frame quality as a measurement of its own: blur, motion, darkness, black and frozen seconds."""
