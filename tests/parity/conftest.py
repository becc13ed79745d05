"""The recorded step: weights of both networks, and the tensors on the way from clips to loss."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="session")
def recorded(reference_dir: Path) -> dict[str, Any]:
    tensors: dict[str, Any] = torch.load(
        reference_dir / "golden" / "golden_A.pt", weights_only=True
    )
    return tensors


@pytest.fixture(scope="session")
def weights(reference_dir: Path) -> dict[str, dict[str, Tensor]]:
    stored = torch.load(reference_dir / "golden" / "weights.pt", weights_only=True)
    sharpened = ("attn.qkv.weight", "patch_embed.proj.weight")  # stored at a quarter
    return {
        which: {
            name: value.float() * (4 if name.endswith(sharpened) else 1)
            for name, value in state.items()
        }
        for which, state in stored.items()
    }
