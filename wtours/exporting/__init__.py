"""Shard sets in the layouts of others: the same frames, for a loader that somebody already has."""
