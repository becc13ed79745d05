"""Detectors on torch: small networks with random weights, loaded by the real code."""

import importlib.util
import shutil
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.analyze_cases import add_video, published_bytes, write_scenes
from wtours.analyze.detectors.spec import parse_detector
from wtours.analyze.detectors.torchvision import load_torchvision
from wtours.analyze.pipeline import analyze_videos
from wtours.analyze.schema import load_summary
from wtours.errors import AnalysisError, MissingPackageError
from wtours.media.reader import open_video
from wtours.storage.hashing import sha256_file
from wtours.workspace.layout import Layout

LVIS_CLASSES = 1203


def has(*packages: str) -> bool:
    return all(importlib.util.find_spec(package) is not None for package in packages)


needs_transformers = pytest.mark.skipif(
    not has("torch", "torchvision", "timm", "transformers"),
    reason="needs torch, torchvision, timm and transformers",
)
needs_torchvision = pytest.mark.skipif(
    not has("torch", "torchvision"), reason="needs torch and torchvision"
)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "a.mp4"
    return write_scenes(path, seconds=(2, 2), rate=10, size="160x96")


@pytest.fixture(scope="module")
def frames(clip):
    with open_video(clip) as video:
        return list(video.frames())[::13]


@pytest.fixture(scope="module")
def detic_folder(tmp_path_factory):
    """A small network of Detic's kind and classes, saved as the hub has it."""
    import torch
    from transformers import (
        DeformableDetrConfig,
        DeformableDetrForObjectDetection,
        DeformableDetrImageProcessor,
    )

    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "backbone": "resnet18",
        "use_timm_backbone": True,
        "use_pretrained_backbone": False,
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "num_queries": 150,
        "two_stage": True,
        "two_stage_num_proposals": 150,
        "with_box_refine": True,
        "id2label": {i: f"thing {i}" for i in range(LVIS_CLASSES)},
    }
    model = DeformableDetrForObjectDetection(DeformableDetrConfig(**settings))
    with torch.no_grad():  # else a thousand classes give every query the same score
        heads: Any = model.class_embed
        for head in heads:
            head.weight.normal_(std=0.3)
            head.bias.fill_(-6.0)
    folder = tmp_path_factory.mktemp("detic") / "small"
    model.save_pretrained(folder)
    size = {"shortest_edge": 96, "longest_edge": 160}
    DeformableDetrImageProcessor(size=size).save_pretrained(folder)
    return folder


@pytest.mark.medium
@needs_transformers
def test_detic_equals_transformers_own_postprocessing_with_one_class_a_query(detic_folder, frames):
    import torch
    from transformers import AutoImageProcessor, DeformableDetrForObjectDetection

    detector = parse_detector(f"detic:{detic_folder}").load_network()
    assert len(detector.facts.vocabulary) == LVIS_CLASSES
    assert detector.facts.vocabulary[7] == "thing 7"
    assert detector.facts.weights_sha256 == sha256_file(detic_folder / "model.safetensors")
    assert detector.facts.max_per_frame == 100
    model = DeformableDetrForObjectDetection.from_pretrained(detic_folder).eval()
    processor = AutoImageProcessor.from_pretrained(detic_folder)
    classes = set()
    for frame, found in zip(
        frames, detector.detect([frame.to_rgb() for frame in frames]), strict=True
    ):
        rgb = frame.to_rgb()
        with torch.inference_mode():
            output = model(**processor(images=rgb, return_tensors="pt"))
        # Every pair of query and class, so that nothing is capped before a query counts once.
        (pairs,) = processor.post_process_object_detection(
            output, threshold=0.05, target_sizes=[rgb.shape[:2]], top_k=150 * LVIS_CLASSES
        )
        expected: dict[tuple[float, ...], tuple[float, int]] = {}
        for score, label, box in zip(
            *(pairs[k].tolist() for k in ("scores", "labels", "boxes")), strict=True
        ):
            expected.setdefault(tuple(box), (score, label))
        best = sorted(expected.items(), key=lambda item: -item[1][0])[:100]
        assert len(expected) > 100  # so the cap is hit
        assert len(pairs["scores"]) > len(expected)  # and some query has two classes
        assert [d.score for d in found] == pytest.approx([s for _, (s, _) in best], abs=1e-5)
        assert {d.label_id for d in found} == {label for _, (_, label) in best}
        boxes = [np.clip(box, 0, [160, 96, 160, 96]) for box, _ in best]
        assert np.allclose([(d.x0, d.y0, d.x1, d.y1) for d in found], boxes, atol=0.01)
        classes |= {d.label for d in found}
    assert len(classes) > 1


@pytest.mark.medium
@needs_transformers
def test_detic_through_the_pipeline_does_not_depend_on_segments(detic_folder, clip, tmp_path):
    layouts = []
    for segment_seconds in (60, 1):
        layout = Layout(tmp_path / str(segment_seconds))
        add_video(layout, "walk", clip)
        report = analyze_videos(
            layout, ["walk"], detector=f"detic:{detic_folder}", segment_seconds=segment_seconds
        )
        assert (report.done, report.objects_not_measured) == (["walk"], {})
        layouts.append(layout)
    objects = load_summary(layouts[0], "walk").objects
    assert objects is not None
    assert (objects.frames_analysed, objects.frames_at_cap, objects.detections) == (5, 5, 500)
    assert objects.detector.name == "detic:small"
    # In the receipts too: the same detector again has nothing to do.
    assert published_bytes(layouts[0], "walk") == published_bytes(layouts[1], "walk")


@pytest.mark.medium
@needs_transformers
def test_other_settings_beside_the_same_weights_are_another_detector(detic_folder, tmp_path):
    other = tmp_path / detic_folder.name
    shutil.copytree(detic_folder, other)
    settings = other / "preprocessor_config.json"
    settings.write_text(settings.read_text().replace("96", "64"))
    first, again, changed = (
        parse_detector(f"detic:{folder}").load_network().facts
        for folder in (detic_folder, detic_folder, other)
    )
    assert first == again
    assert first != changed


@needs_transformers
def test_detic_without_hub_and_cache_is_one_clear_line(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(AnalysisError, match="cannot be downloaded") as caught:
        parse_detector("detic").load_network()
    assert "\n" not in str(caught.value)
    assert "detic:FOLDER" in str(caught.value)


@pytest.mark.medium
@needs_transformers
def test_a_folder_that_is_not_detic_is_refused_in_one_line(detic_folder, tmp_path):
    with pytest.raises(AnalysisError, match=r"there is no config\.json"):
        parse_detector(f"detic:{tmp_path}").load_network()
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((detic_folder / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(AnalysisError, match="cannot be loaded") as caught:
        parse_detector(f"detic:{tmp_path}").load_network()
    assert "\n" not in str(caught.value)
    from safetensors.torch import load_file, save_file

    weights = load_file(detic_folder / "model.safetensors")
    weights.pop(next(name for name in weights if "input_proj" in name))
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AnalysisError, match="lacks 1 of the model's weights"):
        parse_detector(f"detic:{tmp_path}").load_network()


@pytest.mark.medium
@needs_torchvision
def test_torchvision_gives_the_models_own_detections(tmp_path, frames):
    import torch

    torch.manual_seed(0)
    build = import_module("torchvision.models.detection").ssdlite320_mobilenet_v3_large
    model = build(weights=None, weights_backbone=None, num_classes=91, score_thresh=0.05).eval()
    with torch.no_grad():  # else 91 classes have the same score, too low to be kept
        for block in model.head.classification_head.module_list:
            block[1].bias.normal_(std=2.0)
    weights = tmp_path / "random.pth"
    torch.save(model.state_dict(), weights)
    spec = parse_detector(f"torchvision:ssdlite320_mobilenet_v3_large,{weights}")
    detector = spec.load_network()
    assert detector.facts.weights_sha256 == sha256_file(weights)
    assert detector.facts.vocabulary[1] == "person"
    total = 0
    for frame, found in zip(
        frames, detector.detect([frame.to_rgb() for frame in frames]), strict=True
    ):
        with torch.inference_mode():
            (own,) = model([torch.from_numpy(frame.to_rgb()).permute(2, 0, 1) / 255])
        assert [d.score for d in found] == pytest.approx(own["scores"].tolist(), abs=1e-5)
        assert sorted(d.label_id for d in found) == sorted(own["labels"].tolist())
        total += len(found)
    assert total > 0


@pytest.mark.medium
@needs_torchvision
def test_torchvisions_own_weights_are_run_as_torchvision_runs_them(tmp_path, monkeypatch):
    import torch

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    models = import_module("torchvision.models")
    name = "retinanet_resnet50_fpn"  # one of those that are normalized without an eps
    published = models.get_model_weights(name)["COCO_V1"]
    model = models.get_model(name, weights=None, weights_backbone=None)
    model.backbone.body.bn1.running_var.fill_(1e-5)  # as small as their eps otherwise is
    cached = tmp_path / "hub" / "checkpoints" / Path(published.url).name
    cached.parent.mkdir(parents=True)
    torch.save(model.state_dict(), cached)
    own = models.get_model(name, weights=published).eval()  # from that file
    picture = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = own.backbone(picture)["0"]
        for weights, is_same in ((None, True), (cached, False)):  # given, it is no file of theirs
            found = load_torchvision(name, weights)._model.backbone(picture)["0"]
            assert torch.allclose(found, expected, rtol=1e-3, atol=1e-5) is is_same


@needs_torchvision
def test_an_unknown_torchvision_model_or_wrong_weights_are_refused(tmp_path):
    with pytest.raises(AnalysisError, match=r"choose one of .*fasterrcnn_resnet50_fpn_v2"):
        parse_detector("torchvision:resnet18").load_network()
    name = "ssdlite320_mobilenet_v3_large"
    with pytest.raises(AnalysisError, match="there is no file"):
        parse_detector(f"torchvision:{name},{tmp_path}/x.pth").load_network()
    (tmp_path / "x.pth").write_bytes(b"no weights")
    with pytest.raises(AnalysisError, match="does not fit the model") as caught:
        parse_detector(f"torchvision:{name},{tmp_path}/x.pth").load_network()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["detic", "torchvision:x", "detectron2:a.yaml,b.pkl"])
def test_without_torch_the_extra_is_named(text, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingPackageError, match=r"wtours\[objects\]"):
        parse_detector(text).load_network()


@pytest.mark.skipif(has("detectron2"), reason="detectron2 is installed")
def test_without_detectron2_the_steps_are_named():
    with pytest.raises(AnalysisError, match=r"not installed.*howto/detectors\.html"):
        parse_detector("detectron2:a.yaml,b.pkl").load_network()


@pytest.mark.filterwarnings("ignore")  # detectron2 uses what its own libraries deprecate
@pytest.mark.medium
@pytest.mark.skipif(
    not has("detectron2"), reason="detectron2 is not installed: build it from source"
)
def test_a_detectron2_model_gives_what_its_own_predictor_gives(tmp_path, frames):
    import torch

    zoo = Path(str(import_module("detectron2").__file__)).parent / "model_zoo" / "configs"
    settings = import_module("detectron2.config").get_cfg()
    settings.merge_from_file(str(zoo / "COCO-Detection" / "retinanet_R_50_FPN_1x.yaml"))
    settings.MODEL.DEVICE = "cpu"
    settings.MODEL.RETINANET.SCORE_THRESH_TEST = 0.05
    settings.MODEL.RETINANET.PRIOR_PROB = 0.06  # random weights that find something
    settings.INPUT.MIN_SIZE_TEST = 96
    torch.manual_seed(0)
    weights, config = tmp_path / "random.pth", tmp_path / "config.yaml"
    state = import_module("detectron2.modeling").build_model(settings).state_dict()
    state["head.cls_score.weight"] *= 30  # else many scores are equal but for rounding
    torch.save({"model": state}, weights)
    settings.MODEL.WEIGHTS = str(weights)
    config.write_text(settings.dump())
    detector = parse_detector(f"detectron2:{config},{weights}").load_network()
    predictor = import_module("detectron2.engine").DefaultPredictor(settings)
    total = 0
    for frame, found in zip(
        frames, detector.detect([frame.to_rgb() for frame in frames]), strict=True
    ):
        own = predictor(np.ascontiguousarray(frame.to_rgb()[:, :, ::-1]))["instances"]
        assert [d.score for d in found] == pytest.approx(own.scores.tolist(), abs=1e-5)
        assert [d.label_id for d in found] == own.pred_classes.tolist()
        total += len(found)
    assert total > 0
    assert len(detector.facts.vocabulary) == 80
