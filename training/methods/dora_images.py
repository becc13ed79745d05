"""DORA* (Table 8): DORA on single images, whose objects are found and not tracked."""

from training.methods.dora import Dora


class DoraImages(Dora):
    """DORA on clips of one frame, each an image of a folder or tar."""

    data = "images"
