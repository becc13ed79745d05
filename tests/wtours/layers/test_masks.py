"""Masks of a COCO file are those of pycocotools, of the frames that its images are named by."""

import json

import numpy as np
import pytest

from tests.support.shard_set import write_shard_set
from wtours.errors import ShardError
from wtours.exporting.units import shard_units
from wtours.layers.external import external_source
from wtours.layers.make import make_layer
from wtours.shards import ShardIndex
from wtours.shards.layers.layer import Layer

# By pycocotools 2.0.11: mask.encode of a disc, and of one with stripes.
DISC = "_h0;S14M2M4M2O0O2N2O0O2O00000000000000000001N101N2N101N3L3N3LSl0"
STRIPES = (
    "_h0412R1OnN10Lo03QO10Nl02TO000j00VO0000Lh03XO1000Mg02YO1000Oe00[O10000e0N[O200000Kc03]O200000"
    "Mb00^O300000Nb0N^O400000Ob0L^O5000000c00]O00000c00]O000000Kb04^O100000Lb02^O200000Mb00^O30000"
    "0Nb0N^O400000Ob0L^O5000000c00]O00000d0O\\O10000f0MZO30000h0KXO50000j00VO0000Ki04WO1000Kl01TO4"
    "00Q10oN0S1NmN2Um0"
)
ROWS, COLUMNS = np.mgrid[:48, :64]
IS_DISC = (ROWS - 20) ** 2 + (COLUMNS - 30) ** 2 < 15**2
IS_STRIPED = IS_DISC & ((ROWS + COLUMNS) % 7 > 0)
CORNER = [0, 5, 48 * 64 - 5]
"""Not compressed: the upper five pixels of the first column."""


@pytest.fixture
def index(tmp_path):
    return ShardIndex.open(write_shard_set(tmp_path / "set", num_frames=3, videos=("oslo",)))


def coco(**changed):
    images = [
        {"id": f"{n}", "file_name": f"oslo/oslo-{n:08d}.jpg", "height": 48, "width": 64}
        for n in range(3)
    ]
    masks = (("0", DISC), ("0", CORNER), ("2", STRIPES))
    annotations = [
        {"image_id": image, "category_id": 1, "segmentation": {"size": [48, 64], "counts": counts}}
        for image, counts in masks
    ]
    return {"images": images, "annotations": annotations, "categories": [], **changed}


def written(tmp_path, content):
    path = tmp_path / "masks.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_coco_file_gives_a_label_map_for_each_frame(index, tmp_path):
    first = np.where(IS_DISC, 1, 0).astype(np.uint16)
    first[:5, 0] = 2
    expected = [first, np.zeros((48, 64), np.uint16), np.where(IS_STRIPED, 1, 0).astype(np.uint16)]
    source = external_source(index, written(tmp_path, coco()))
    make_layer(index, "masks", source, origin="external")
    for value, drawn in zip(Layer.open(index, "masks").read(range(3)), expected, strict=True):
        assert value is not None
        assert value.dtype == np.uint16
        np.testing.assert_array_equal(value, drawn)
    assert make_layer(index, "masks", source, origin="external").num_written == 0
    tracked = coco()
    for number, annotation in zip((7, 65535, 300), tracked["annotations"], strict=True):
        annotation["track_id"] = number
    again = external_source(index, written(tmp_path, tracked))
    assert make_layer(index, "masks", again, origin="external").num_written > 0
    values = Layer.open(index, "masks").read(range(3))
    found = [np.unique(value).tolist() for value in values if value is not None]
    assert found == [[0, 7, 65535], [0], [0, 300]]


def test_of_masks_that_overlap_the_later_one_is_seen(index, tmp_path):
    over = coco()
    over["annotations"].insert(1, {**over["annotations"][2], "image_id": "0"})
    (unit, *_) = shard_units(index)
    value = next(iter(external_source(index, written(tmp_path, over)).values(unit)))
    assert np.array_equal(value == 2, IS_STRIPED & ~((COLUMNS == 0) & (ROWS < 5)))
    assert np.array_equal(value == 1, IS_DISC & ~IS_STRIPED)


def test_a_frame_without_an_image_has_no_value_if_that_is_allowed(index, tmp_path):
    path = written(tmp_path, coco(images=[coco()["images"][n] for n in (0, 2)]))
    with pytest.raises(ShardError, match="1 of 3 frames have no value, the first oslo at 1 s"):
        external_source(index, path)
    source = external_source(index, path, allow_missing=True)
    values = [value for unit in shard_units(index) for value in source.values(unit)]
    assert [value is None for value in values] == [False, True, False]


def one_mask(**changed):
    of_first = {"image_id": "0", "segmentation": {"size": [48, 64], "counts": DISC}}
    return coco(annotations=[{**of_first, **changed}])


def rle(counts, size=(48, 64)):
    return one_mask(segmentation={"size": list(size), "counts": counts})


def renamed(name, identity="1"):
    images = coco()["images"]
    images[1] |= {"file_name": name, "id": identity}
    return coco(images=images, annotations=[])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("no JSON", "Invalid JSON"),
        ("[" * 200_000, "Invalid JSON"),
        ("[]", "no COCO file"),
        ('{"images": 7, "annotations": []}', "images: Input should be a valid"),
        (
            one_mask(segmentation=[[1, 2, 3, 4, 5, 6]]),
            "annToRLE of pycocotools makes RLE of polygons",
        ),
        (rle([1, 2]), "annotation 1 has a mask that is not of its image's 48 x 64 pixels"),
        (rle([-1, 48 * 64 + 1]), "not of its image's"),
        (rle([]), "not of its image's"),
        (rle([48 * 64], size=(64, 48)), "not of its image's"),
        (rle(DISC + "1"), "not of its image's"),
        (rle(DISC[:-1]), "ends within a count"),
        (rle("\u00e9"), "an RLE that is none of COCO"),
        (rle("o" * 10**6), "an RLE that is none of COCO"),
        (rle("@"), "not of its image's"),  # a negative count
        (one_mask(image_id="9"), "annotation 1 is of no image in it"),
        (one_mask(track_id=0), "track_id"),
        (one_mask(track_id=65536), "annotation 1 needs a track_id below 65536"),
        (one_mask(image_id=[]), "image_id"),
        (rle([0, 10**30, 48 * 64 - 10**30]), "not of its image's"),
        (renamed("../../oslo-00000099.jpg"), "oslo-00000099.jpg is of no frame"),
        (renamed("oslo-00000000.png"), "oslo-00000000.png is there twice"),
        (renamed("oslo-00000001.jpg", "0"), "oslo-00000001.jpg is there twice"),
    ],
)
def test_a_hostile_coco_file_is_one_line(index, tmp_path, content, said):
    with pytest.raises(ShardError) as refused:
        external_source(index, written(tmp_path, content))
    text = str(refused.value)
    assert said in text
    assert "masks.json" in text
    assert "\n" not in text
    assert len(text) < 700


def test_track_ids_of_some_masks_alone_are_refused(index, tmp_path):
    some = coco()
    some["annotations"][1]["track_id"] = 5
    with pytest.raises(ShardError, match="annotation 1 needs a track_id below 65536, as others"):
        external_source(index, written(tmp_path, some))


def test_an_image_with_too_many_pixels_is_refused_before_any_is_made(index, tmp_path):
    images = coco()["images"]
    images[0] |= {"height": 2**26, "width": 2**26}
    with pytest.raises(ShardError, match="has more than 67108864 pixels"):
        external_source(index, written(tmp_path, coco(images=images, annotations=[])))
