"""Lock files: a shard set written down so that it can be made again, to the byte."""
