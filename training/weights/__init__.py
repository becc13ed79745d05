"""Opening, converting and exporting backbone weights."""
