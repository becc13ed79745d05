import io

import numpy as np
import pytest
from PIL import Image

from training.data.image_decoding import decode_indices, decode_labels, decode_rgb
from wtours.errors import ImageDataError


def png(values):
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def test_16_bit_gray_is_reduced_to_its_upper_8_bits():
    values = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    decoded = np.asarray(decode_rgb(png(values), what="x"))
    assert decoded[0, :, 0].tolist() == [0, 0, 1, 128, 255]
    assert (decoded == decoded[..., :1]).all()


@pytest.mark.parametrize("name", ["across", "down", "ramp"])
def test_16_bit_gray_files_are_not_white(data_dir, name):
    path = data_dir / "cases" / "eval" / "grey16_sample" / f"{name}.png"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    with Image.open(path) as image:
        stored = np.asarray(image)
    assert stored.max() > 255
    decoded = np.asarray(decode_rgb(path.read_bytes(), what=name))
    assert (decoded == (stored >> 8)[..., None]).all()


def test_16_bit_labels_keep_their_numbers_and_masks_end_at_255():
    values = np.array([[0, 150, 300]], np.uint16)
    assert decode_labels(png(values), what="x").tolist() == [[0, 150, 300]]
    with pytest.raises(ImageDataError, match="mask x hold 300; masks go up to 255"):
        decode_indices(png(values), what="mask x")
