"""The fault table: download faults, by wtours and its peers."""
