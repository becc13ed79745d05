"""What a short pretraining teaches."""
