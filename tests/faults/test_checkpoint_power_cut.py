"""A power cut while checkpoints are saved: the one that was reported is whole.

As in `test_shard_power_cut`, with the same proof that the check can fail: without fsync it does.
"""

from pathlib import Path

import pytest

from tests.support.power_cut import cut_power, make_image, mounted
from training.engine.checkpoint_files import checkpoint_dir, find_damage, newest_checkpoint

pytestmark = pytest.mark.slow

# Tells each step whose checkpoint is saved as a line on stdout; keeps two.
SAVE = """
import sys
from pathlib import Path
from tests.support.tiny_run import ONE_PROCESS, tiny_config
from training.data.source import DataIdentity
from training.engine.checkpoint import save_checkpoint
from training.engine.setup import build_state
from wtours.storage import atomic

run_dir, synced = sys.argv[1:]
if synced == "no":
    atomic._fsync = lambda path: None
config = tiny_config("model.head_hidden_dim=32")
state = build_state(config, ONE_PROCESS)
for step in range(1, 6):
    state.step = step
    save_checkpoint(
        Path(run_dir), state, config=config, data=DataIdentity("0" * 64, 1), keep_last=2
    )
    print(step, flush=True)
sys.stdin.readline()
"""


def cut(tmp_path: Path, *, synced: str, after: int) -> Path:
    """Save checkpoints on a disk that loses its power after one; return the disk."""
    image, copy = make_image(tmp_path), tmp_path / "copy.img"
    with mounted(image, tmp_path / "disk") as disk:
        cut_power(SAVE, str(disk / "run"), synced, after=str(after), image=image, copy=copy)
    return copy


@pytest.mark.parametrize("step", [1, 3, 5])
def test_after_a_power_cut_the_reported_checkpoint_is_whole(tmp_path, step):
    copy = cut(tmp_path, synced="yes", after=step)
    with mounted(copy, tmp_path / "replayed") as disk:
        newest = newest_checkpoint(disk / "run")
        assert newest is not None
        assert newest >= checkpoint_dir(disk / "run", step)
        found = [find_damage(path) for path in (disk / "run/checkpoints").glob("step-*")]
        assert set(found) == {None}


def test_without_fsync_the_same_check_finds_damage(tmp_path):
    copy = cut(tmp_path, synced="no", after=5)
    with mounted(copy, tmp_path / "replayed") as disk:
        assert find_damage(checkpoint_dir(disk / "run", 5)) is not None
