"""The card and `croissant.json` beside a shard set, which they only describe."""

from pathlib import Path

from wtours.exporting.card import dataset_card
from wtours.exporting.croissant import croissant
from wtours.shards.schema import CARD_FILE, CROISSANT_FILE, read_dataset
from wtours.storage.atomic import write_bytes
from wtours.storage.hashing import canonical_json


def set_cards(directory: Path) -> dict[str, bytes]:
    """Return the content of README.md and croissant.json of a finished set, by name.

    Raises:
        ShardError: the set is not finished.
    """
    dataset = read_dataset(directory)
    return {
        CARD_FILE: dataset_card(dataset, data_files="*.tar").encode(),
        CROISSANT_FILE: canonical_json(croissant(dataset)),
    }


def write_set_cards(directory: Path, out: Path) -> list[Path]:
    """Write both into the folder `out`, which may be the set's own; return where.

    Raises:
        ShardError: the set is not finished.
    """
    contents = set_cards(directory)
    for name, content in contents.items():
        write_bytes(out / name, content)
    return [out / name for name in contents]
