"""Two shard sets beside each other: the same frames, or the same scenes?"""
