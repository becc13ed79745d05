"""A worker's own copy of a root on a store, where Ray runs it without the driver's disk."""

import pytest

from tests.support.object_stores import FaultyFileSystem, sha256s
from wtours.execution.node_copy import NodeCopy
from wtours.storage.atomic import write_bytes
from wtours.storage.object_store import ObjectStore
from wtours.storage.receipts import Receipt, record_file, write_receipt
from wtours.storage.working_copy import bring, share

URL = "faulty://bucket/root"


@pytest.fixture
def node(monkeypatch, tmp_path):
    FaultyFileSystem.reset()
    monkeypatch.setenv("WTOURS_SCRATCH", str(tmp_path))
    return NodeCopy(URL)


def test_a_worker_that_does_one_segment_after_another_fills_no_disk(node):
    store = ObjectStore(URL)
    store.create("analysis/walk/segments/99999/pictures.npy", b"of another worker")
    for number in range(3):
        measured = node.root / f"analysis/walk/segments/{number:05d}"
        rows = node.root / f"shards/set/receipts/walk-{number:05d}.parquet"
        for folder, name in ((measured, "pictures.npy"), (rows.parent, rows.name)):
            write_bytes(folder / name, b"pictures")
            files = (record_file(folder / name, relative_to=folder),)
            receipt = (folder / name).with_suffix(".json")
            write_receipt(receipt, Receipt(stage="x", key="walk", files=files))
            share(receipt)
        bring(node.root / "analysis/walk/segments/99999/pictures.npy")
        assert set(node.take_published()) <= set(sha256s(store))
        left = [path for path in node.root.rglob("*") if path.is_file()]
        assert not [path for path in left if path.suffix in (".npy", ".parquet")]
    assert len(sha256s(store)) == 13
