"""Writing shard sets from videos; reading them is `wtours.shards`."""
