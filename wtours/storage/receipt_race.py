"""Which of several receipts of one thing stays on a store, when processes publish at once."""

import json
import logging
from typing import Any

from wtours.errors import ConflictError, StorageError
from wtours.storage.hashing import sha256_bytes
from wtours.storage.store import Store

logger = logging.getLogger(__name__)

_RESULT = ("status", "inputs", "params", "files")
"""What two receipts of one thing must agree on; versions and dates may differ."""
_ATTEMPTS = 5


def publish_receipt(store: Store, key: str, text: bytes) -> bytes:
    """Commit: create a receipt; return the one that is on the store, ours or another's.

    The first of two receipts of the same result stays, and a result takes the place of a failure.

    Raises:
        ConflictError: another process has published another result.
        StorageError: the store cannot be written.
    """
    ours = _parsed(text)
    for _ in range(_ATTEMPTS):
        if store.create(key, text, sha256=sha256_bytes(text)):
            return text
        found = store.stat(key)
        if found is None:  # removed meanwhile
            continue
        there = store.get(key)
        theirs = _parsed(there)
        if there == text:  # an answer was lost, or the other process is as we are
            return text
        is_same = all(theirs.get(name) == ours.get(name) for name in _RESULT)
        if is_same or (theirs.get("status") == "done" and ours.get("status") != "done"):
            logger.warning("%s/%s was published by another process; it stays", store.url, key)
            return there
        if theirs.get("status") == "done":
            raise ConflictError(
                f"{store.url}/{key} was published by another process, with another result "
                f"({_summary(theirs)}) than ours ({_summary(ours)}); theirs stays: run the command "
                f"again to go on with it"
            )
        if store.replace(key, text, found.version):
            return text
    raise StorageError(f"{store.url}/{key} changes all the time; run the command again")


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _summary(receipt: dict[str, Any]) -> str:
    files = receipt.get("files") or ()
    named = ", ".join(f"{file['path']} {file['sha256'][:12]}…" for file in files[:3])
    return f"{receipt.get('status')}: {named or 'no file'}"
