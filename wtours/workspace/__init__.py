"""The workspace on disk: its paths, the manifest, the videos in it."""
