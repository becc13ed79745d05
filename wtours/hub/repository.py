"""A dataset repository of the Hugging Face Hub: what is in it, and adding files to it."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from wtours.errors import MissingPackageError, ShardError, StorageError, UsageError
from wtours.text import plain, redact_urls

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

T = TypeVar("T")
SCHEME = "hf://"
_ADDRESS = re.compile(r"hf://datasets/([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)/?")
_LOGIN = "log in with `hf auth login`, or set HF_TOKEN, with the right to write there"


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file to send: its name in the repository, and its content."""

    name: str
    content: Path | bytes
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as the Hub lists it: large ones by their sha256, others as git does."""

    bytes: int
    sha256: str | None
    git_sha1: str

    def is_of(self, file: HubFile) -> bool:
        """Return whether the Hub has the very bytes."""
        if self.sha256 is not None:
            return self.sha256 == file.sha256
        return self.bytes == file.bytes and self.git_sha1 == _git_sha1(file.content)


class HubRepository:
    """The main branch of a dataset on the Hub, hf://datasets/OWNER/NAME.

    Raises:
        UsageError: it names no repository.
        MissingPackageError: huggingface_hub is not installed.
    """

    def __init__(self, url: str) -> None:
        found = _ADDRESS.fullmatch(url)
        if found is None:
            raise UsageError(f"{redact_urls(url)} names no dataset: hf://datasets/OWNER/NAME does")
        if find_spec("huggingface_hub") is None:
            raise MissingPackageError("huggingface_hub", "hub", "the Hugging Face Hub")
        from huggingface_hub import HfApi
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()  # there is one already
        self.url = url.rstrip("/")
        self._where: dict[str, Any] = {"repo_id": found[1], "repo_type": "dataset"}
        self._api = HfApi(library_name="wtours")

    def create(self, *, public: bool) -> None:
        """Make the repository; one that is there stays as it is."""
        make = self._api.create_repo
        self._ask(lambda: make(**self._where, private=not public, exist_ok=True))

    def files(self) -> dict[str, StoredFile]:
        """Return every file by its name."""
        from huggingface_hub import RepoFile

        listed = self._ask(lambda: list(self._api.list_repo_tree(**self._where, recursive=True)))
        return {
            each.path: StoredFile(each.size, each.lfs.sha256 if each.lfs else None, each.blob_id)
            for each in listed
            if isinstance(each, RepoFile)
        }

    def send(self, files: Sequence[HubFile]) -> list["CommitOperationAdd"]:
        """Send the content of files, which a commit then makes visible; what is there is not sent.

        Raises:
            ShardError: a file is not the one that dataset.json describes.
        """
        from huggingface_hub import CommitOperationAdd

        added = []
        for file in files:
            content = str(file.content) if isinstance(file.content, Path) else file.content
            operation = CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=content)
            if (sha256 := operation.upload_info.sha256.hex()) != file.sha256:  # read once, here
                raise ShardError(
                    f"{file.content if isinstance(file.content, Path) else file.name} is damaged: "
                    f"its sha256 is {sha256[:12]}…, not {file.sha256[:12]}…; run `wtours verify` "
                    f"first"
                )
            added.append(operation)
        upload = self._api.preupload_lfs_files
        self._ask(lambda: upload(**self._where, additions=added))
        return added

    def commit(self, added: Sequence["CommitOperationAdd"], message: str) -> None:
        """Make files visible, all at once."""
        publish = self._api.create_commit
        self._ask(lambda: publish(**self._where, operations=added, commit_message=message))

    def _ask(self, ask: Callable[[], T]) -> T:
        """Return what the Hub answers, its refusals as one line; they hold no token."""
        try:
            return ask()
        except Exception as error:  # of the client, its HTTP library, or its Xet library
            cause = error.__cause__ or error
            status = getattr(getattr(cause, "response", None), "status_code", None)
            reason = redact_urls(plain(cause))[:300] or type(cause).__name__
            remedy = _LOGIN if status in (401, 403) else "run the command again to resume"
            raise StorageError(
                f"{self.url}: the Hub did not answer as hoped ({reason}); {remedy}"
            ) from error


def _git_sha1(content: Path | bytes) -> str:
    data = content.read_bytes() if isinstance(content, Path) else content
    return hashlib.sha1(b"blob %d\0%b" % (len(data), data), usedforsecurity=False).hexdigest()
