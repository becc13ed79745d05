"""The exceptions of wtours; each message names the item, what is wrong, and what to do.

    WtoursError                 the world is not as it should be: exit code 1
    ├── UsageError              the command line or a config asks for the impossible: exit code 2
    ├── ManifestError           a manifest that cannot be used: exit code 2
    ├── StorageError            the file system or an object store refuses to read or write
    │   ├── DiskFullError           ... since there is no room: nothing more can be done
    │   ├── TransientError          ... and may not the next time: a network drive, a store
    │   └── ConflictError           an object has other bytes than the ones to be published
    ├── VideoError              one video cannot be read; the others go on
    ├── DownloadError           one video cannot be fetched; the others go on
    │   └── PermanentDownloadError   ... and asking again will not help
    ├── AnalysisError           one video cannot be analyzed; the others go on
    ├── WorkerDiedError         a process died at a task, also when this ran alone
    ├── ShardError              a shard or an index that is missing, damaged or not ours
    ├── ImageDataError          images to evaluate on: missing, unreadable or laid out otherwise
    ├── CheckpointError         a run or a checkpoint that is missing, damaged or not ours
    ├── TrainingError           training cannot go on (a non-finite loss, too few clips)
    └── MissingPackageError     an optional package is not installed: names the extra

A caller's bug is a ValueError or TypeError, never one of these.
"""

import textwrap
from collections.abc import Sequence
from typing import Self


class WtoursError(Exception):
    """The world is not as it should be; the message says what to do."""

    exit_code = 1


class UsageError(WtoursError):
    """The command line or a config asks for something impossible."""

    exit_code = 2


class ManifestError(UsageError):
    """A manifest that cannot be used."""


class StorageError(WtoursError):
    """The file system or an object store refuses to read or write something."""


class DiskFullError(StorageError):
    """There is no room for what is to be written."""


class ConflictError(StorageError):
    """Another process has published other bytes under the same name."""


class TransientError(StorageError):
    """A disk or a store that did not answer as it should, and may the next time."""


class VideoError(WtoursError):
    """One video cannot be read."""


class DownloadError(WtoursError):
    """One video cannot be fetched now; the next run tries again."""


class PermanentDownloadError(DownloadError):
    """One video cannot be fetched and asking again will not help."""


class AnalysisError(WtoursError):
    """One video cannot be analyzed."""


class WorkerDiedError(WtoursError):
    """A process died at some tasks, and again when each of them ran alone.

    Args:
        tasks: Which; shown by `str`.
        causes: What ended the process at each, for example "SIGSEGV"; "" if nobody knows.
    """

    def __init__(self, tasks: Sequence[object], causes: Sequence[str] = ()) -> None:
        names = textwrap.shorten(", ".join(map(str, tasks)), 300, placeholder=" …")
        known = ", ".join(dict.fromkeys(filter(None, causes)))
        super().__init__(
            f"the process died, also when nothing else ran, at {names}: "
            f"{f'{known}: ' if known else ''}out of memory, or a file that crashes the decoder; "
            f"finished parts are kept"
        )
        self.tasks, self.causes = tuple(tasks), tuple(causes) or ("",) * len(tasks)

    def __reduce__(self) -> tuple[type[Self], tuple[tuple[object, ...], tuple[str, ...]]]:
        """Pickle by the arguments: a worker process sends its exception home that way."""
        return type(self), (self.tasks, self.causes)

    def reason(self, task: object) -> str:
        """Return the line for one of the tasks."""
        return str(WorkerDiedError([task], [self.causes[self.tasks.index(task)]]))


class ShardError(WtoursError):
    """A shard or an index is missing, damaged or not ours."""


class ImageDataError(WtoursError):
    """Images or annotations to evaluate on are missing, unreadable or not laid out as asked."""


class CheckpointError(WtoursError):
    """A run or a checkpoint is missing, damaged or not ours."""


class TrainingError(WtoursError):
    """Training cannot go on."""


class MissingPackageError(WtoursError):
    """An optional package is not installed.

    Args:
        package: The name on PyPI.
        extra: The extra of wtours that brings it.
        purpose: What needs it, for example "reading YouTube".
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {package}, which is not installed: pip install 'wtours[{extra}]'"
        )
        self._arguments = (package, extra, purpose)

    def __reduce__(self) -> tuple[type[Self], tuple[str, str, str]]:
        """Pickle by the arguments: a worker process sends its exception home that way."""
        return type(self), self._arguments
