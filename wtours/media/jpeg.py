"""A frame's planes as a JPEG."""

import numpy as np
import simplejpeg

from wtours.media.frame import YuvPlanes


def encode_planes(planes: YuvPlanes, *, quality: int) -> bytes:
    """Return the JPEG, 4:2:0, of planes as `Frame.to_jpeg_planes` gives them."""
    luma, cb, cr = planes
    height, width = luma.shape
    odd = (height % 2, width % 2)
    if any(odd):  # libjpeg-turbo reads on to an even row and column: to what else is in memory
        luma = np.pad(luma, [(0, odd[0]), (0, odd[1])], mode="edge")[:height, :width]
    jpeg: bytes = simplejpeg.encode_jpeg_yuv_planes(luma, cb, cr, quality=quality)
    return jpeg
