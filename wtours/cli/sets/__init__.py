"""The commands that cite, share and compare whole shard sets."""
