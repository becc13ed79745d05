"""What a checkpoint records of the clips that it was trained on."""

from dataclasses import asdict, dataclass, replace


@dataclass(frozen=True)
class DataIdentity:
    """Which clips a run is trained on: the order of clips follows from these and the seed."""

    index_sha256: str
    num_clips: int
    set_sha256: str | None = None
    """The set hash of `wtours lock`; None: images, or a checkpoint that is older than this."""
    split_sha256: str | None = None
    """Of the set's `split.json`; None: all of the set is trained on."""

    def is_of(self, other: "DataIdentity") -> bool:
        """Whether both are the same clips; what one of them does not say is not compared."""
        known = None in (self.set_sha256, other.set_sha256) or self.set_sha256 == other.set_sha256
        return known and replace(self, set_sha256=None) == replace(other, set_sha256=None)

    def recorded(self) -> dict[str, str | int]:
        """Return what a checkpoint holds."""
        return {name: value for name, value in asdict(self).items() if value is not None}
