"""What is measured, each value against a peer or a limit in the same run."""
