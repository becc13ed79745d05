"""Parts of a job: `--part i/N`, for array jobs."""

import re
import zlib
from dataclasses import dataclass
from typing import Self

from wtours.errors import UsageError


@dataclass(frozen=True, slots=True)
class Part:
    """Part `number` of `count` of a shard set, 1-based: the segments that one machine does."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the part that "2/3" names.

        Raises:
            UsageError: it is not i/N with 1 <= i <= N <= 10,000.
        """
        match = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text)
        number, count = map(int, match.groups()) if match else (0, 0)
        if not 1 <= number <= count <= 10_000:
            raise UsageError(f"--part {text!r} must be i/N, from 1/N to N/N, N up to 10,000")
        return cls(number, count)

    @classmethod
    def of(cls, video_id: str, segment: int, count: int) -> Self:
        """Return the part that a segment falls to; it depends on nothing else in the set.

        So adding videos moves no segment to another part.
        """
        # In turn, so that each part gets its share of every video; not all from the first part on.
        return cls((zlib.crc32(video_id.encode()) + segment) % count + 1, count)

    def has(self, video_id: str, segment: int) -> bool:
        """Return whether a segment falls to this part; see `of`."""
        return self.of(video_id, segment, self.count) == self
