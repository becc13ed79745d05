import itertools
import json

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.shard_set import write_shard_set
from tests.support.tiny_run import CPU, STEP, make_run, tiny_config
from training.data.clips import open_clips
from training.engine.checkpoint import load_network
from training.engine.checkpoint_files import find_checkpoint
from training.methods.object_tracking import object_masks, track_objects
from training.models.vit import encode_with_attention
from training.visualization.attention_maps import (
    attend,
    attend_between,
    crop_clip,
    mask_overlap,
)
from training.visualization.clips import choose_clips, visualize_clips
from training.visualization.overlay import GAP, HEADER, MARGIN
from training.weights.export import export_run
from training.weights.official import import_released
from wtours.errors import CheckpointError, ShardError, UsageError

pytestmark = pytest.mark.medium  # whole stages: left out of the inner loop

SIDE = 224  # 7 times the 32 pixels that the network sees
CLIP_LENGTH = 4


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shard_set(
        tmp_path_factory.mktemp("shards") / "default", num_frames=12, videos=("street", "walk")
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "tiny", tiny_config())


@pytest.fixture(scope="module")
def first_clip(run, shards, tmp_path_factory):
    """Return the figure and the film of the first clip."""
    folder = tmp_path_factory.mktemp("first")
    return visualize_clips(run, shards, "walk", clip=0, out_dir=folder, device=CPU)


def pixels_of(png):
    with Image.open(png) as image:
        return np.asarray(image)


def picture_at(png, row, column):
    top, left = HEADER + row * (SIDE + GAP), MARGIN + column * (SIDE + GAP)
    return pixels_of(png)[top : top + SIDE, left : left + SIDE]


def test_the_figure_shows_the_frames_and_the_maps_of_both_equations(run, shards, tmp_path):
    png, _ = visualize_clips(run, shards, "walk", clip=2, out_dir=tmp_path, device=CPU)

    assert png == tmp_path / "walk-clip-00000002.png"
    height, width = HEADER + 4 * (SIDE + GAP), MARGIN + CLIP_LENGTH * (SIDE + GAP)
    assert pixels_of(png).shape == (height, width, 3)
    facts = json.loads(png.with_suffix(".json").read_text())
    config, network = load_network(find_checkpoint(run))
    clip = open_clips(shards, config.data)[9 + 2]  # "street" has 9 clips
    assert (clip.video_id, clip.pts_us[0]) == ("walk", 2_000_000)

    pictures, frames = crop_clip(clip, 32)
    features = encode_with_attention(network.backbone, frames)
    for row, sinkhorn in ((1, False), (2, True)):
        tracking = config.tracking.model_copy(update={"sinkhorn": sinkhorn})
        maps = track_objects(
            features, torch.tensor(facts["heads"]), clip_length=CLIP_LENGTH, tracking=tracking
        )[0]
        for column in range(CLIP_LENGTH):
            np.testing.assert_array_equal(picture_at(png, 0, column), pictures[column])
            drawn = picture_at(png, row, column)
            for patch in (0, 5, 10, 15):  # of 4 x 4
                y, x = (56 * part + 20 for part in divmod(patch, 4))
                of_frame = maps[:, column]
                low, high = of_frame.amin(dim=1), of_frame.amax(dim=1)
                color = (of_frame[:, patch] - low) / (high - low)  # red, green, blue
                expected = 0.4 * torch.tensor(pictures[column][y, x].copy()) + 0.6 * 255 * color
                np.testing.assert_allclose(drawn[y, x], expected.numpy(), atol=0.51)
    assert facts["pts_us"] == [2_000_000, 3_000_000, 4_000_000, 5_000_000]
    assert (facts["step"], facts["video_id"], facts["run"]) == (STEP, "walk", "tiny")


def test_the_rows_of_the_two_equations_differ(first_clip):
    png, _ = first_clip
    assert not np.array_equal(picture_at(png, 1, 0), picture_at(png, 2, 0))


def test_clips_are_spread_over_the_video_and_land_in_the_runs_figures(run, shards):
    told = []
    paths = visualize_clips(
        run, shards, "street", num_clips=3, device=CPU, on_progress=lambda *now: told.append(now)
    )
    assert told == [("street", done, 3) for done in (1, 2, 3)]
    assert [path.relative_to(run).as_posix() for path in paths] == [
        f"figures/street-clip-{start:08d}.{kind}" for start in (0, 4, 8) for kind in ("png", "mp4")
    ]
    assert len(list((run / "figures").iterdir())) == 9  # a JSON beside each pair


def test_the_same_again_gives_the_same_bytes(first_clip, run, shards, tmp_path):
    again = visualize_clips(run, shards, "walk", clip=0, out_dir=tmp_path, device=CPU)
    for first, second in zip(first_clip, again, strict=True):
        assert first.name == second.name
        assert first.read_bytes() == second.read_bytes()
    jsons = (paths[0].with_suffix(".json").read_bytes() for paths in (first_clip, again))
    assert next(jsons) == next(jsons)


def test_the_film_shows_each_frame_for_its_second_beside_its_maps(first_clip):
    png, mp4 = first_clip
    with av.open(mp4) as film:
        stream = film.streams.video[0]
        assert (stream.codec.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert film.duration == CLIP_LENGTH * 1_000_000  # frames are a second apart
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(frames) == 30 * CLIP_LENGTH
    assert frames[0].shape == (HEADER + SIDE + GAP, GAP + 4 * (SIDE + GAP), 3)
    for column in range(CLIP_LENGTH):
        for row in range(3):
            left = GAP + row * (SIDE + GAP)
            shown = frames[30 * column + 15][HEADER : HEADER + SIDE, left : left + SIDE]
            expected = picture_at(png, row, column).astype(int)
            assert np.abs(shown - expected).mean() < 6  # of 255: half the color samples, and H.264
            other = picture_at(png, row, (column + 1) % CLIP_LENGTH).astype(int)
            assert np.abs(shown - other).mean() > 2 * np.abs(shown - expected).mean()


def test_the_film_has_every_frame_of_the_shards_though_the_clip_has_one_a_second(run, tmp_path):
    shards = write_shard_set(
        tmp_path / "four", num_frames=16, interval_us=250_000, videos=("walk",)
    )
    png, mp4 = visualize_clips(run, shards, "walk", clip=0, out_dir=tmp_path, device=CPU)
    assert len(json.loads(png.with_suffix(".json").read_text())["pts_us"]) == CLIP_LENGTH
    with av.open(mp4) as film:
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in film.decode(video=0)]
    assert len(frames) == 30 * CLIP_LENGTH
    changes = [np.abs(a - b).mean() > 0.5 for a, b in itertools.pairwise(frames)]
    assert sum(changes) == 12  # to the 13 frames from 0 s to 3 s, a quarter of a second apart


def test_any_number_of_frames_is_attended_to_as_the_clip_itself_is(run, shards):
    config, network = load_network(find_checkpoint(run))
    _, frames = crop_clip(open_clips(shards, config.data)[0], 32)
    many = torch.cat([frames, frames.flip(-1), *[frames[1:]] * 5])
    heads = torch.tensor([0, 1, 2])
    at_once = attend(network.backbone, many, heads, config.tracking)
    in_pieces = attend_between(network.backbone, many, heads, config.tracking)
    torch.testing.assert_close(in_pieces.plain, at_once.plain)
    torch.testing.assert_close(in_pieces.refined, at_once.refined)


def test_a_palette_for_the_color_blind_changes_the_maps_and_not_the_frames(
    first_clip, run, shards, tmp_path
):
    other = visualize_clips(
        run, shards, "walk", clip=0, palette="colorblind", out_dir=tmp_path, device=CPU
    )
    pngs = [first_clip[0], other[0]]
    frames, maps = ([picture_at(png, row, 0) for png in pngs] for row in (0, 1))
    assert np.array_equal(*frames)
    assert not np.array_equal(*maps)
    assert json.loads(pngs[1].with_suffix(".json").read_text())["palette"] == "colorblind"


def test_released_weights_are_drawn_like_a_run(shards, tmp_path):
    run = make_run(tmp_path / "run", tiny_config("model.embed_dim=192"))  # heads as DINO has them
    exported = export_run(run, to="official", out=tmp_path / "teacher.pth")
    imported = import_released(exported.path, tmp_path / "imported")
    png, mp4 = visualize_clips(imported, shards, "walk", clip=0, device=CPU)
    assert png.exists()
    assert mp4.exists()
    overlap = json.loads(png.with_suffix(".json").read_text())["mask_overlap"]
    assert 0 <= overlap["refined"] < 1


def test_more_clips_than_there_are_gives_each_once(run, shards):
    clips = open_clips(shards, tiny_config().data)
    assert choose_clips(clips, "walk", clip=None, num_clips=100) == list(range(9, 18))
    assert choose_clips(clips, "walk", clip=None, num_clips=1) == [9]


def test_what_is_not_there_is_refused_in_one_line(run, shards, tmp_path):
    with pytest.raises(
        ShardError, match="no clip of video 'venice'; it has clips of: street, walk"
    ):
        visualize_clips(run, shards, "venice", device=CPU)
    with pytest.raises(UsageError, match="clip 9 of walk: there are 0 to 8"):
        visualize_clips(run, shards, "walk", clip=9, device=CPU)
    with pytest.raises(UsageError, match=r"number of clips \(0\)"):
        visualize_clips(run, shards, "walk", num_clips=0, device=CPU)
    with pytest.raises(CheckpointError, match="norun is not there"):
        visualize_clips(tmp_path / "norun", shards, "walk")
    with pytest.raises(ShardError, match="not a finished shard set"):
        visualize_clips(run, tmp_path, "walk")


def test_mask_overlap_is_the_mean_iou_of_the_binary_masks():
    # Masks by hand: a map is masked where it is above its mean. One frame, four patches.
    left = [0.4, 0.4, 0.1, 0.1]
    right = [0.1, 0.1, 0.4, 0.4]
    first = [0.7, 0.1, 0.1, 0.1]
    maps = torch.tensor([[left], [right], [first]])
    assert object_masks(maps[None], mask="binary")[0, :, 0].tolist() == [
        [1, 1, 0, 0],
        [0, 0, 1, 1],
        [1, 0, 0, 0],
    ]
    assert mask_overlap(maps) == pytest.approx((0 + 1 / 2 + 0) / 3)
    assert mask_overlap(maps[:1]) is None
    assert mask_overlap(maps[[0, 0]]) == 1


def test_maps_of_a_clip_are_distributions_over_its_patches(run, shards):
    config, network = load_network(find_checkpoint(run))
    _, frames = crop_clip(open_clips(shards, config.data)[0], 32)
    attention = attend(network.backbone, frames, torch.tensor([0, 1, 2]), config.tracking)
    for maps in (attention.plain, attention.refined):
        assert maps.shape == (3, CLIP_LENGTH, 16)
        torch.testing.assert_close(maps.sum(dim=-1), torch.ones(3, CLIP_LENGTH))
