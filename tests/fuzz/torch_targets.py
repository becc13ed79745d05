"""What is fuzzed of training and evaluation: weights, runs, images, labels, results."""

import tarfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.fuzz.targets import Step, Target, resign_receipts, write_image
from tests.support.tiny_run import ONE_PROCESS, make_run, tiny_config
from training.config.presets import resolve_config
from training.config.train import to_yaml
from training.data.image_clips import ImageClips
from training.data.image_decoding import decode_center
from training.data.source import DataIdentity
from training.distributed.store import RunStore
from training.distributed.watchdog import Watchdog
from training.engine.checkpoint_files import find_checkpoint, newest_checkpoint
from training.engine.run_dir import Run
from training.engine.setup import build_state
from training.evaluation.datasets.davis import list_sequences
from training.evaluation.datasets.image_folder import open_images
from training.evaluation.datasets.segmentation import open_labeled_pixels
from training.evaluation.datasets.voc import VocFolder
from training.evaluation.linear_classifiers import LinearHeads
from training.evaluation.measured import collect
from training.evaluation.paper_tables import as_json, as_markdown
from training.evaluation.results import write_result
from training.weights.backbones import open_backbone
from training.weights.export import export_run
from wtours.storage.atomic import write_json
from wtours.storage.tensor_files import pth_bytes

CONFIG = tiny_config("optim.steps=200")
WIDE = tiny_config("model.embed_dim=192")
"""64 a head, as released weights have."""


def _make_run(folder: Path) -> None:
    make_run(folder / "run", CONFIG)
    (folder / "run/config.yaml").write_text(to_yaml(CONFIG))
    lines = [f'{{"step": {n}, "loss": 1.5, "time": {{"seconds": 0.1}}}}\n' for n in range(1, 121)]
    (folder / "run/metrics.jsonl").write_text("".join(lines))


def _run_steps(folder: Path) -> Iterable[Step]:
    run_dir = folder / "run"

    def resume() -> None:
        watchdog = Watchdog(RunStore(None, rank=0, world_size=1), CONFIG.faults)
        data = DataIdentity("0" * 64, 1)
        with Run(run_dir, CONFIG, data, ONE_PROCESS, watchdog) as run:
            run.restore(build_state(CONFIG, ONE_PROCESS), "auto")

    yield lambda: find_checkpoint(run_dir)
    yield lambda: newest_checkpoint(run_dir)
    yield lambda: open_backbone(str(run_dir), Path)
    yield lambda: open_backbone(f"{run_dir},random", Path)
    yield lambda: resolve_config("demo", run_dir / "config.yaml", [])
    yield lambda: export_run(run_dir, to="official", out=folder / "out.pth")
    yield resume


def _make_weights(folder: Path) -> None:
    export_run(make_run(folder / "run", WIDE), to="official", out=folder / "official.pth")
    export_run(folder / "run", to="timm", out=folder / "timm")
    tensors = {"teacher": {f"module.backbone.{n}": torch.zeros(2, 3) for n in ("a", "b")}}
    (folder / "other.pth").write_bytes(pth_bytes(tensors))


def _weights_steps(folder: Path) -> Iterable[Step]:
    for name in ("official.pth", "other.pth"):
        yield partial(open_backbone, str(folder / name), Path)
    yield lambda: open_backbone(f"hf:{folder / 'timm'}", Path)
    weights = folder / "timm/model.safetensors"
    yield lambda: open_backbone(f"timm:vit_tiny_patch16_224,{weights}", Path)


def _make_heads(folder: Path) -> None:
    heads = {"heads.0.weight": torch.zeros(2, 3), "heads.0.bias": torch.zeros(2)}
    save_file(heads, folder / "heads.safetensors", {"weights": "0", "history": "{}"})


def _heads_steps(folder: Path) -> Iterable[Step]:
    from training.evaluation.linear_probe import _resume

    yield lambda: _resume(folder / "heads.safetensors", LinearHeads.__new__(LinearHeads), "0")


def _make_images(folder: Path) -> None:
    for class_name in ("car", "tree"):
        for number in range(2):
            write_image(folder / "images" / class_name / f"{number}.png")
            write_image(folder / "images" / class_name / f"{number}.jpg")
            write_image(folder / "images" / class_name / f"{number}.webp")
    for name, mode in (("plain.tar", "w"), ("packed.tgz", "w:gz")):
        with tarfile.open(folder / name, mode) as tar:  # type: ignore[call-overload]
            tar.add(folder / "images", "images")


def _image_steps(folder: Path) -> Iterable[Step]:
    def labeled(spec: Path) -> None:
        images = open_images(str(spec))
        for image, data in images.read():
            decode_center(data, what=image.name, resize_pixels=32, crop_pixels=28)

    def unlabeled(path: Path) -> None:
        clips = ImageClips(path)
        for number in range(len(clips)):
            clips[number].decode()

    for path in (folder / "images", folder / "plain.tar", folder / "packed.tgz"):
        yield partial(labeled, path)
        yield partial(unlabeled, path)


def _make_saved(folder: Path) -> None:
    import datasets

    write_image(folder / "0.png")
    image = (folder / "0.png").read_bytes()
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["car", "tree"])}
    )
    rows = {"image": [{"bytes": image, "path": None}] * 4, "label": [0, 1, 0, 1]}
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(folder / "set"))


def _saved_steps(folder: Path) -> Iterable[Step]:
    def read() -> None:
        images = open_images(str(folder / "set"))
        for image, data in images.read():
            decode_center(data, what=image.name, resize_pixels=32, crop_pixels=28)

    yield read


def _make_labels(folder: Path) -> None:
    for split, masks in (("train", "trainannot"), ("test", "testannot")):
        write_image(folder / "camvid" / split / "0.png")
        write_image(folder / "camvid" / masks / "0.png", labels=11)
    davis, voc = folder / "davis", folder / "voc"
    for number in range(3):
        write_image(davis / f"JPEGImages/480p/walk/{number:05d}.jpg")
        write_image(davis / f"Annotations/480p/walk/{number:05d}.png", labels=3)
    write_image(voc / "JPEGImages/a.jpg")
    write_image(voc / "SegmentationObject/a.png", labels=3)
    (voc / "Annotations").mkdir()
    sides = "".join(f"<{side}>{n}</{side}>" for side, n in zip(
        ("xmin", "ymin", "xmax", "ymax"), (1, 2, 9, 9), strict=True))  # fmt: skip
    things = f"<object><name>car</name><bndbox>{sides}</bndbox></object>" * 2
    (voc / "Annotations/a.xml").write_text(f"<annotation>{things}</annotation>")
    for path, name in (("davis/ImageSets/2017", "walk"), ("voc/ImageSets/Segmentation", "a")):
        (folder / path).mkdir(parents=True)
        (folder / path / "val.txt").write_text(f"{name}\n")


def _label_steps(folder: Path) -> Iterable[Step]:
    def voc() -> None:
        images = VocFolder(folder / "voc", "Segmentation/val")
        for name in images.names:
            images.read(name)

    def davis() -> None:
        for sequence in list_sequences(folder / "davis", "val"):
            for number in range(len(sequence.frames)):
                sequence.read_frame(number)
                sequence.read_mask(number)
            sequence.files(folder / "davis")

    def camvid() -> None:
        for split in open_labeled_pixels(folder / "camvid"):
            for number in range(len(split)):
                split.pair(number)
            split.describe()

    yield from (voc, davis, camvid)


def _make_results(folder: Path) -> None:
    backbone: Any = open_backbone(str(make_run(folder / "run", CONFIG)), Path)
    val = {"source": "images", "num_images": 8, "fingerprint": "0" * 64}
    rows = [{"k": k, "top1_percent": 50.0, "top5_percent": 90.0} for k in (10, 20)]
    heads = [{"learning_rate_for_256": 0.001, "best_top1_percent": 40.0}]
    linear = {"learning_rates_for_256": [0.001], "epochs": 100, "batch_size": 1024}
    for evaluation, protocol, results in (
        ("knn", {"k": [10, 20]}, {"teacher": rows, "random_weights": rows}),
        ("linear", linear, {"heads": heads}),
        ("vos", {}, {"jf_mean_percent": 1.0, "j_mean_percent": 1.0, "f_mean_percent": 1.0}),
        ("discover", {"method": "attention"}, {"corloc_percent": 1.0, "jaccard_percent": 2.0}),
    ):
        write_result(backbone, evaluation, protocol=protocol, data={"val": val}, results=results)
    for name in ("checkpoints", "metrics.jsonl"):
        write_json(folder / "elsewhere" / f"{name}.json", {})


def _result_steps(folder: Path) -> Iterable[Step]:
    def tables() -> None:
        measured = collect([folder / "run"])
        as_json(measured)
        as_markdown(measured)

    yield tables


def _make_settings(folder: Path) -> None:
    (folder / "config.yaml").write_text(to_yaml(CONFIG))
    (folder / "words.yaml").write_text(
        "optim.steps: 5\nmethod: dino\nseed: 3\ndata.mixture: {a: 1}"
    )


def _settings_steps(folder: Path) -> Iterable[Step]:
    for name in ("config.yaml", "words.yaml"):
        yield partial(resolve_config, "demo", folder / name, [])
    text = (folder / "words.yaml").read_bytes().decode("utf-8", "surrogateescape")
    for line in text.splitlines():
        yield partial(resolve_config, "demo", None, [line.replace(": ", "=", 1)])


TORCH = {
    "run": Target(
        _make_run,
        ("run/*.yaml", "run/*.jsonl", "run/checkpoints/*/*"),
        _run_steps,
        resign_receipts,
    ),
    "weights": Target(_make_weights, ("*.pth", "timm/*"), _weights_steps),
    "heads": Target(_make_heads, ("*.safetensors",), _heads_steps),
    "images": Target(_make_images, ("images/*/*", "*.tar", "*.tgz"), _image_steps),
    "saved": Target(_make_saved, ("set/*",), _saved_steps),
    "labels": Target(_make_labels, ("*/**/*.*",), _label_steps),
    "results": Target(_make_results, ("run/eval/*.json",), _result_steps),
    "settings": Target(_make_settings, ("*.yaml",), _settings_steps),
}
"""Readers that need torch."""
