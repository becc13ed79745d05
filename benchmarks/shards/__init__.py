"""Shard sets by wtours and its peers."""
