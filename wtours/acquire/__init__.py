"""Getting videos: sources, downloads, own files, and proof that each file is whole."""
