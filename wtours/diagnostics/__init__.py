"""Whether this machine can do the job, and the status of each video."""
