"""Reading the frames of a shard set on an object store by ranges, and keeping them near."""
