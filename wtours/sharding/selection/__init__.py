"""Which seconds of a video a shard set takes, by an expression over their measured quality."""
