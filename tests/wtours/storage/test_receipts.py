"""Receipts are files that anybody may have written: what is wrong in one makes it none."""

import json
from typing import Any

import pytest

from wtours.errors import StorageError, WtoursError
from wtours.storage import atomic
from wtours.storage.atomic import read_json
from wtours.storage.receipts import FileRecord, Receipt, read_receipt, write_receipt

RECORD: dict[str, Any] = {"path": "x.mp4", "bytes": 1, "sha256": "0" * 64}


def tampered(**changes) -> bytes:
    receipt = Receipt(stage="download", key="x", files=(FileRecord(**RECORD),))
    return json.dumps({**receipt.model_dump(mode="json"), **changes}).encode()


def test_a_receipt_is_read_as_it_was_written(tmp_path):
    receipt = Receipt(stage="download", key="x", files=(FileRecord(**RECORD),))
    write_receipt(tmp_path / "receipt.json", receipt)
    assert read_receipt(tmp_path / "receipt.json") == receipt


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../../x.mp4", "../a/x.mp4", "a/../../x.mp4", "", ".", "..", "a\\x.mp4", "a\0"],
)
def test_a_path_out_of_the_folder_makes_a_receipt_none(path, tmp_path):
    (tmp_path / "receipt.json").write_bytes(tampered(files=[{**RECORD, "path": path}]))
    assert read_receipt(tmp_path / "receipt.json") is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b'{"a": ' * 100_000,
        b'{"stage": ' + b"9" * 100_000 + b"}",
        b"\xff\xfe",
        tampered(files=[{**RECORD, "bytes": -1}]),
        tampered(schema_version=2),
        tampered(status="perhaps"),
        tampered(files="x.mp4"),
        tampered(more=1),
    ],
)
def test_a_rotten_receipt_is_none(content, tmp_path):
    (tmp_path / "receipt.json").write_bytes(content)
    assert read_receipt(tmp_path / "receipt.json") is None


def test_a_receipt_that_cannot_be_read_is_not_taken_for_none(tmp_path):
    (tmp_path / "receipt.json").mkdir()
    with pytest.raises(StorageError, match=r"receipt\.json: is a directory"):
        read_receipt(tmp_path / "receipt.json")


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{", b"9" * 10_000, b"\xff"])
def test_json_that_is_none_is_one_short_line(content, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(WtoursError, match=r"x\.json is not JSON \(.*remove it") as caught:
        read_json(path)
    assert len(str(caught.value)) < 400


def test_json_larger_than_any_of_ours_is_not_read(tmp_path):
    path = tmp_path / "x.json"
    with path.open("wb") as file:
        file.truncate(atomic.MAX_JSON_BYTES + 1)
    with pytest.raises(WtoursError, match="is larger than"):
        read_json(path)
