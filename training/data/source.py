"""What training data is: its identity, which a run's checkpoints record."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataIdentity:
    """Which clips a run is trained on: the order of clips follows from these and the seed."""

    index_sha256: str
    num_clips: int
