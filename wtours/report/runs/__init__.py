"""The page of runs, from the files of their folders."""
