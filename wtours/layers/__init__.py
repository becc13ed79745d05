"""Making layers: side data by (video_id, pts_us) beside the frames of a shard set."""
