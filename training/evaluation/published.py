"""What the paper reports in its Tables 2, 3, 4, 5, 7 and 8, as printed there.

Columns of gains are left out: they are differences of others. So is Table 2c. None: the paper has
no figure.
"""

from dataclasses import dataclass

LINEAR, KNN = "LP", "k-NN"
JACCARD, CORLOC = "Jacc.", "CorLoc"
MIOU, MACC = "seg. mIoU", "seg. Acc_m"
BOX_MAP, MASK_MAP = "det. mAP", "inst. mIoU"
JF, J, F = "(J&F)_m", "J_m", "F_m"
AO, SR50, SR75 = "mAO", "SR_0.5", "SR_0.75"

Row = tuple[tuple[str, ...], tuple[float | None, ...]]


@dataclass(frozen=True)
class PaperTable:
    """One table of the paper.

    Attributes:
        number: As the paper counts, "2a".
        title: What it shows.
        labels: Names of the columns that say what a row is of.
        measures: Names of the columns of figures, in percent.
        rows: Labels and figures.
    """

    number: str
    title: str
    labels: tuple[str, ...]
    measures: tuple[str, ...]
    rows: tuple[Row, ...]


TABLES = (
    PaperTable(
        "2a",
        "Pretraining video dataset",
        ("method", "pretrain", "frames (M)"),
        (LINEAR, CORLOC),
        (
            (("DINO", "Movie_rom", "0.19"), (34.9, 51.5)),
            (("DoRA", "Movie_rom", "0.19"), (35.3, 51.6)),
            (("DINO", "K-400*", "0.2"), (40.7, 52.4)),
            (("DoRA", "K-400*", "0.2"), (43.0, 55.2)),
            (("DINO", "EK*", "0.2"), (38.6, 53.5)),
            (("DoRA", "EK*", "0.2"), (41.8, 56.0)),
            (("DINO", "WT_Venice", "0.2"), (33.8, 51.2)),
            (("DoRA", "WT_Venice", "0.2"), (44.5, 56.2)),
        ),
    ),
    PaperTable(
        "2b",
        "Number of tracked objects, WT_Venice",
        ("method", "k"),
        (LINEAR, CORLOC),
        (
            (("DINO", "✗"), (33.8, 51.2)),
            (("DoRA", "1"), (39.9, 53.9)),
            (("DoRA", "2"), (43.1, 55.7)),
            (("DoRA", "3"), (44.5, 56.2)),
            (("DoRA", "4"), (39.2, 53.8)),
            (("DoRA", "5"), (36.7, 50.3)),
            (("DoRA", "6"), (35.8, 48.8)),
            (("DoRA", "16"), (28.3, 48.5)),
            (("DoRA", "32"), (27.1, 46.8)),
        ),
    ),
    PaperTable(
        "3",
        "Semantic segmentation (ADE20k), object detection and instance segmentation (COCO)",
        ("method", "epochs", "pretrain"),
        (MIOU, MACC, BOX_MAP, MASK_MAP),
        (
            (("ViT-S/16", "100", "None"), (25.1, 33.3, 28.6, 24.3)),
            (("iBOT", "100", "WT_Venice"), (33.9, 43.3, 37.6, 33.0)),
            (("AttMask", "100", "WT_Venice"), (33.6, 42.7, 36.5, 32.5)),
            (("VITO", "300", "VideoNet"), (39.4, None, 44.0, None)),
            (("DINO", "100", "IN-1k"), (33.9, 44.3, 39.9, 35.1)),
            (("DoRA", "100", "WT_all"), (36.9, 48.0, 40.7, 36.3)),
            (("DINO", "100", "WT_Venice"), (32.4, 43.7, 37.1, 32.1)),
            (("DoRA", "100", "WT_Venice"), (35.4, 45.5, 39.5, 34.7)),
        ),
    ),
    PaperTable(
        "4",
        "Video object segmentation (DAVIS 2017) and object tracking (GOT-10k)",
        ("method", "epochs", "pretrain"),
        (JF, J, F, AO, SR50, SR75),
        (
            (("ViT", "100", "None"), (26.9, 25.4, 28.3, 23.1, 19.0, 3.4)),
            (("iBOT", "100", "WT_Venice"), (57.4, 56.7, 58.0, 41.5, 47.5, 16.6)),
            (("DINO", "100", "IN-1k"), (59.4, 57.4, 61.4, 46.4, 54.3, 24.1)),
            (("DoRA", "100", "WT_all"), (57.6, 55.1, 60.2, 45.9, 53.4, 23.7)),
            (("DINO", "100", "WT_Venice"), (54.6, 53.0, 56.2, 37.4, 41.4, 13.4)),
            (("DoRA", "100", "WT_Venice"), (58.4, 56.4, 60.4, 41.4, 47.2, 18.2)),
        ),
    ),
    PaperTable(
        "5",
        "Image classification (ImageNet-1k) and object discovery (VOC 2012)",
        ("method", "epochs", "pretrain", "frames (M)"),
        (LINEAR, KNN, JACCARD, CORLOC),
        (
            (("SimCLR", "100", "WT_Venice", "0.2"), (26.3, 25.9, 40.4, 50.2)),
            (("SwAV", "100", "WT_Venice", "0.2"), (28.0, 26.4, 40.6, 51.4)),
            (("iBOT", "100", "WT_Venice", "0.2"), (36.8, 32.8, 43.0, 53.1)),
            (("AttMask", "100", "WT_Venice", "0.2"), (35.8, 31.9, 43.5, 54.5)),
            (("VicReg", "100", "WT_Venice", "0.2"), (36.5, 30.1, 42.7, 52.1)),
            (("DINO", "100", "WT_Venice", "0.2"), (33.8, 29.9, 43.8, 51.2)),
            (("DoRA", "100", "WT_Venice", "0.2"), (45.4, 33.8, 44.0, 56.2)),
            (("DINO", "100", "WT_all", "1.5"), (36.6, 31.1, 42.9, 55.8)),
            (("DoRA", "100", "WT_all", "1.5"), (45.3, 35.7, 44.3, 57.1)),
        ),
    ),
    PaperTable(
        "7a",
        "Pretraining video, DoRA",
        ("video",),
        (LINEAR, CORLOC),
        (
            (("Amsterdam",), (45.4, 54.5)),
            (("Bangkok",), (42.1, 54.3)),
            (("Chiang Mai",), (44.9, 55.5)),
            (("Istanbul",), (44.5, 54.6)),
            (("Kuala Lumpur",), (43.9, 54.1)),
            (("Singapore",), (42.7, 54.7)),
            (("Stockholm",), (44.1, 54.7)),
            (("Venice",), (44.5, 56.2)),
            (("Wildlife",), (44.0, 54.9)),
            (("Zurich",), (44.9, 54.4)),
            (("Mean",), (44.1, 54.8)),
        ),
    ),
    PaperTable(
        "7b",
        "Cuts; †: sampling without cuts",
        ("method", "pretrain"),
        (LINEAR, CORLOC),
        (
            (("DINO", "WT"), (33.8, 51.2)),
            (("DoRA", "Movie"), (35.3, 51.6)),
            (("DoRA", "Movie†"), (39.8, 54.8)),
            (("DoRA", "WT"), (44.5, 56.2)),
        ),
    ),
    PaperTable(
        "8",
        "Pretraining on ImageNet-1k; DoRA*: without tracking",
        ("method", "epochs"),
        (LINEAR, KNN, JACCARD, CORLOC, MIOU, MACC, BOX_MAP, MASK_MAP),
        (
            (("DINO", "100"), (71.4, 69.0, 44.5, 59.6, 33.9, 44.3, 37.1, 32.1)),
            (("iBOT", "100"), (72.1, 69.4, 44.5, 59.7, 35.2, 45.1, 38.9, 34.4)),
            (("DoRA*", "60"), (71.9, 69.4, 44.4, 60.0, 35.4, 44.9, 39.3, 34.9)),
            (("DoRA*", "100"), (72.2, 69.6, 44.8, 60.2, 35.8, 45.1, 39.9, 35.1)),
        ),
    ),
)
