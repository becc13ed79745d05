"""Everything from one decode: analysis and shards of a video, segment by segment."""
