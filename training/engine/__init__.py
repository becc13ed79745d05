"""The training loop and what it saves; knows no method."""
