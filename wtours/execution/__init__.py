"""Running the tasks of a stage: in this process, or in several."""
