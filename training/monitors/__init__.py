"""What is watched during training: k-NN, overlays, collapse."""
