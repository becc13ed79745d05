"""The spine of `wtours push hf://…`: a shard set becomes a dataset of the Hugging Face Hub.

The tars go first; the last commit has the index and `dataset.json` together. So who reads the
repository at any moment finds a finished set or none, as everywhere. What is there already is not
sent again, and at the end each file is compared with the Hub's own digest of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wtours.errors import ConflictError, StorageError
from wtours.exporting.set_card import set_cards
from wtours.hub.repository import HubFile, HubRepository, StoredFile
from wtours.progress import Progress, no_progress
from wtours.sharding.copy_set import files_of_set, known_sha256s
from wtours.shards.schema import CARD_FILE, DATASET_FILE, INDEX_FILE, read_dataset
from wtours.storage.hashing import sha256_bytes, sha256_file
from wtours.storage.store import LocalStore
from wtours.text import counted

_COMMIT_FILES, _COMMIT_BYTES = 1000, 50 * 10**9
"""Of one commit at most: the Hub slows down those who make many."""
_SENT_TOGETHER = 8


@dataclass(frozen=True, slots=True)
class PushReport:
    """What the repository holds of the set, and how much of it was sent now."""

    destination: str
    files: int
    bytes: int
    files_sent: int
    bytes_sent: int


def push_shards(
    directory: Path, url: str, *, public: bool = False, on_progress: Progress = no_progress
) -> PushReport:
    """Send a finished shard set to the Hub, with its card and `croissant.json`.

    The client of the Hub finds the token itself (`hf auth login`, HF_TOKEN); HF_ENDPOINT names
    another server. A set that has grown, or whose index has changed, becomes a new commit.

    Args:
        url: hf://datasets/OWNER/NAME; the repository is made where it is not there.
        public: A new repository is public; else private.
        on_progress: Called with the URL and the bytes that are there and in all.

    Raises:
        UsageError: the URL names no repository.
        MissingPackageError: huggingface_hub is not installed.
        ShardError: the set is not finished, or a file of it is damaged.
        ConflictError: the repository has a tar of the same name with other bytes, or one that is
            not of the set.
        StorageError: the Hub refuses, or has something else than was sent.
    """
    repository = HubRepository(url)
    first, last = _files_of(directory)
    every = [*first, *last]
    repository.create(public=public)
    there = repository.files()
    _require_own(repository, first, there)
    total = sum(file.bytes for file in every)
    missing = [[file for file in part if not _is_there(file, there)] for part in (first, last)]
    sent = [file for part in missing for file in part]
    done = total - sum(file.bytes for file in sent)
    for batch in (*_batches(missing[0]), missing[1]):
        added = []
        for start in range(0, len(batch), _SENT_TOGETHER):
            together = batch[start : start + _SENT_TOGETHER]
            on_progress(repository.url, done, total)
            added += repository.send(together)
            done += sum(file.bytes for file in together)
        if added:
            repository.commit(added, f"wtours push: {counted(len(added), 'file')}")
    on_progress(repository.url, total, total)
    there = repository.files()
    for file in every:
        if not _is_there(file, there):
            raise StorageError(
                f"{repository.url}/{file.name} did not arrive as it was sent; run the command again"
            )
    num_bytes = sum(file.bytes for file in sent)
    return PushReport(repository.url, len(every), total, len(sent), num_bytes)


def _require_own(
    repository: HubRepository, files: Sequence[HubFile], there: dict[str, StoredFile]
) -> None:
    """Refuse a repository with tars of another set."""
    ours = {file.name: file for file in files}
    for name in sorted(name for name in there if name.endswith(".tar") and "/" not in name):
        if name not in ours:
            raise ConflictError(
                f"{repository.url}/{name} is not of this set, and who loads all tars would get its "
                f"frames too: remove it there, or choose another repository"
            )
        if not there[name].is_of(ours[name]):
            raise ConflictError(
                f"{repository.url}/{name} has other bytes: it is of another shard set; choose "
                f"another repository"
            )


def _files_of(directory: Path) -> tuple[list[HubFile], list[HubFile]]:
    """Return the files of a set: those that mean nothing without the last ones, and these."""
    dataset = read_dataset(directory)
    known, cards = known_sha256s(dataset), set_cards(directory)
    first = []
    for found in files_of_set(LocalStore(directory), dataset):
        path = directory / found.key
        if found.key == CARD_FILE:
            cards[CARD_FILE] = path.read_bytes()  # it may have been edited
        elif found.key not in (*cards, INDEX_FILE):
            sha256 = known.get(found.key) or sha256_file(path)
            first.append(HubFile(found.key, path, found.bytes, sha256))
    index = HubFile(INDEX_FILE, directory / INDEX_FILE, dataset.index.bytes, dataset.index.sha256)
    contents = {**cards, DATASET_FILE: (directory / DATASET_FILE).read_bytes()}
    last = [HubFile(key, data, len(data), sha256_bytes(data)) for key, data in contents.items()]
    return first, [index, *last]


def _is_there(file: HubFile, there: dict[str, StoredFile]) -> bool:
    return file.name in there and there[file.name].is_of(file)


def _batches(files: Sequence[HubFile]) -> Iterator[list[HubFile]]:
    """Yield the files of each commit."""
    batch: list[HubFile] = []
    for file in files:
        full = sum(each.bytes for each in batch) + file.bytes > _COMMIT_BYTES
        if batch and (full or len(batch) == _COMMIT_FILES):
            yield batch
            batch = []
        batch.append(file)
    if batch:
        yield batch
