"""Publishing files by the commit rule: atomic writes, hashes, locks, receipts."""
