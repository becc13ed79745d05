"""Hugging Face Trainer: a masked autoencoder (ViTMAE) is pretrained on the frames.

    pip install transformers accelerate
    python docs/examples/huggingface_mae.py demo-data/shards/default mae

`Trainer` brings mixed precision, several GPUs, logging and checkpoints; frames come by the index.
"""

# ruff: noqa: T201
import sys
from pathlib import Path

import simplejpeg
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, ViTMAEConfig, ViTMAEForPreTraining

from wtours.shards import ShardIndex

SIDE = 64


class Frames(Dataset[dict[str, Tensor]]):
    """{"pixel_values": (3, SIDE, SIDE) float32, -1 to 1}: one item for each frame of the set."""

    def __init__(self, shards: Path) -> None:
        self.index = ShardIndex.open(shards)

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.index)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        """Return a frame, decoded in the smallest of libjpeg's sizes that will do, and reduced."""
        (jpeg,) = self.index.read_jpegs([row])
        frame = torch.from_numpy(simplejpeg.decode_jpeg(jpeg, min_height=SIDE, min_width=SIDE))
        return {"pixel_values": F.adaptive_avg_pool2d(frame.movedim(-1, 0) / 127.5 - 1, SIDE)}


def train(shards: Path, out: Path, *, steps: int = 60, num_workers: int = 2) -> list[float]:
    """Save the model under `out`; return the loss of each step."""
    torch.manual_seed(0)
    network = ViTMAEForPreTraining(
        ViTMAEConfig(
            image_size=SIDE, patch_size=8, hidden_size=96, num_hidden_layers=3,
            num_attention_heads=3, intermediate_size=192, decoder_hidden_size=64,
            decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
            decoder_intermediate_size=128,
        )
    )  # fmt: skip
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=steps,
        per_device_train_batch_size=16,
        learning_rate=3e-3,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        dataloader_num_workers=num_workers,
        disable_tqdm=True,
        seed=0,
    )
    trainer = Trainer(model=network, args=arguments, train_dataset=Frames(shards))
    trainer.train()
    trainer.save_model()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


if __name__ == "__main__":
    losses = train(Path(sys.argv[1]), Path(sys.argv[2]))
    print(f"loss {losses[0]:.4f} at first, {losses[-1]:.4f} after {len(losses)} steps")
