"""croissant.json by mlcroissant: valid, and its records read; the card by the client of the Hub."""

import hashlib
import json
import subprocess
import sys

import pytest
import yaml
from huggingface_hub import DatasetCard

from tests.support.command_line import exit_code_of
from tests.support.shard_set import write_shard_set
from wtours.exporting.card import dataset_card
from wtours.exporting.croissant import croissant
from wtours.shards import ShardIndex
from wtours.shards.schema import read_dataset, set_sha256

CC_BY = "Creative Commons Attribution license (reuse allowed)"
HOSTILE = 'A "walk": ---\n| x | </script> {#} \u202e'

_READ = """
import json, sys, traceback
import mlcroissant

def read(path):
    found = mlcroissant.Dataset(jsonld=path)
    issues = found.metadata.ctx.issues
    frames = [
        {name: value.decode() if isinstance(value, bytes) else value for name, value in row.items()}
        for row in found.records("frames")
    ]
    images = {
        row["images/key"].decode(): row["images/image"].size for row in found.records("images")
    }
    return {"errors": list(issues.errors), "warnings": list(issues.warnings),
            "frames": frames, "images": images}

sound, damaged = sys.argv[1:]
result = read(sound)
try:
    read(damaged)
except Exception as error:
    result["refusal"] = "".join(traceback.format_exception(error))
print(json.dumps(result, default=float))
"""


@pytest.fixture
def directory(tmp_path):
    return write_shard_set(tmp_path / "walks", num_frames=5, videos=("oslo", "rome"))


def with_videos(dataset, **changed):
    return dataset.model_copy(
        update={"videos": tuple(v.model_copy(update=changed) for v in dataset.videos)}
    )


def hashes(directory):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()
    }


def write_damaged(directory):
    """Write a set of which one tar is not the one that croissant.json describes."""
    write_shard_set(directory, num_frames=5, videos=("oslo", "rome"))
    (directory / "croissant.json").write_text(json.dumps(croissant(read_dataset(directory))))
    tar = directory / "rome-00000.tar"
    tar.write_bytes(tar.read_bytes()[:-1] + b"?")


def test_mlcroissant_finds_no_fault_reads_every_frame_and_refuses_a_tar_that_was_not_described(
    directory, tmp_path, monkeypatch
):
    before = hashes(directory)
    assert exit_code_of(monkeypatch, "shards", "card", str(directory)) == 0
    after = hashes(directory)
    assert after.keys() - before.keys() == {"README.md", "croissant.json"}
    assert before.items() <= after.items()
    write_damaged(tmp_path / "damaged")
    found = subprocess.run(  # for both, as it imports for seconds
        [
            *(sys.executable, "-c", _READ),
            *(str(folder / "croissant.json") for folder in (directory, tmp_path / "damaged")),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={"HOME": str(tmp_path), "CROISSANT_CACHE": str(tmp_path / "cache")},
    )
    assert found.returncode == 0, found.stderr
    read = json.loads(found.stdout)
    assert "not identical with the reference" in " ".join(read["refusal"].split())
    assert read["errors"] == []
    # The dates and the citation of a publication are the user's to add.
    assert all("citeAs" in w or "datePublished" in w for w in read["warnings"]), read["warnings"]
    index = ShardIndex.open(directory)
    refs = [index.frame(row) for row in range(len(index))]
    assert [
        (row["frames/video_id"], row["frames/frame_index"], row["frames/pts_us"])
        for row in read["frames"]
    ] == [(ref.video_id, ref.frame_index, ref.pts_us) for ref in refs]
    assert [row["frames/offset"] for row in read["frames"]] == [ref.offset for ref in refs]
    keys = {f"{ref.video_id}-{ref.frame_index:08d}" for ref in refs}
    assert read["images"] == {key: [64, 48] for key in keys}


@pytest.mark.parametrize(
    "content",
    [
        b"\xff no JSON",
        b"[" * 100_000,
        b'{"distribution": [{"contentUrl": "../../etc/passwd"}], "recordSet": 7}',
        b'"' + b"x" * 2**22,
    ],
)
def test_a_hostile_croissant_file_is_read_by_no_command(directory, tmp_path, monkeypatch, content):
    own = json.dumps(croissant(read_dataset(directory)), sort_keys=True)
    path, copied = directory / "croissant.json", tmp_path / "copied"
    path.write_bytes(content)
    assert exit_code_of(monkeypatch, "verify", str(directory)) == 0
    assert exit_code_of(monkeypatch, "copy", str(directory), str(copied)) == 0
    assert (copied / "croissant.json").read_bytes() == content
    # It is made of dataset.json alone, so that a false one is replaced.
    assert exit_code_of(monkeypatch, "shards", "card", str(directory)) == 0
    assert json.dumps(json.loads(path.read_bytes()), sort_keys=True) == own
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["copied", "walks"]


def test_croissant_states_sources_provenance_and_what_the_source_said_of_the_license(directory):
    dataset = read_dataset(directory)
    source = "https://user:secret@example.org/walk?v=1"
    content = croissant(
        with_videos(dataset, license_observed=CC_BY, title=HOSTILE, source=source, channel="Ann")
    )
    assert content["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    assert content["license"] == ["https://creativecommons.org/licenses/by/3.0/"]
    assert [each["name"] for each in content["usageInfo"]] == [CC_BY]
    assert content["identifier"] == f"sha256:{set_sha256(dataset.shards)}"
    video = content["isBasedOn"][0]
    assert (video["@type"], video["name"], video["sha256"]) == (
        *("sc:VideoObject", HOSTILE),
        dataset.videos[0].source_sha256,
    )
    assert "secret" not in json.dumps(content)
    assert content["prov:wasDerivedFrom"] == [{"@id": "videos/oslo"}, {"@id": "videos/rome"}]
    unknown = croissant(with_videos(dataset, license_observed=None))
    assert unknown["license"] == ["not observed"]


@pytest.mark.parametrize(
    ("observed", "license_id"),
    [(CC_BY, "cc-by-3.0"), ("Vimeo terms", "other"), (None, "unknown")],
)
def test_the_card_is_read_by_the_hubs_client_whatever_the_titles_are(
    directory, observed, license_id
):
    dataset = with_videos(read_dataset(directory), license_observed=observed, title=HOSTILE)
    text = dataset_card(dataset.model_copy(update={"name": 'a: "b"'}), data_files="*.tar")
    card = DatasetCard(text)
    assert card.data.to_dict()["license"] == license_id
    assert card.data.to_dict()["pretty_name"] == 'a: "b"'
    assert card.data.to_dict()["configs"][0]["data_files"] == [{"split": "train", "path": "*.tar"}]
    assert set_sha256(dataset.shards) in card.text
    assert "secret" not in text
    assert yaml.safe_load(text.split("---\n")[1])["license"] == license_id


def test_datasets_reads_the_folder_by_its_card(directory, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    assert exit_code_of(monkeypatch, "shards", "card", str(directory)) == 0
    read = datasets.load_dataset(str(directory), split="train", cache_dir=str(tmp_path / "cache"))
    assert read.num_rows == 10
    assert sorted(read["__key__"])[0] == "oslo-00000000"
    assert read[0]["jpg"].size == (64, 48)
    assert read[0]["json"]["pts_us"] == 0
