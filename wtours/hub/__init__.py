"""Shard sets on the Hugging Face Hub; reading them there needs nothing more than fsspec."""
