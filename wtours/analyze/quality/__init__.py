"""Frame quality as a measurement of its own: blur, motion, darkness, repeats and burned-in text."""
