"""Video files: containers, decoding, frame sampling, encoding."""
