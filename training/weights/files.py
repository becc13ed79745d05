"""Files of weights, read without running what is in them."""

import argparse
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.models.loading import read_safetensors
from wtours.errors import CheckpointError
from wtours.text import first_line

_WEIGHTS_UNDER = ("teacher", "state_dict", "model")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .pth or .safetensors by name, without "module.", and run no code.

    Of a training checkpoint these are the teacher's, or what is under "state_dict" or "model".

    Raises:
        CheckpointError: not such a file, or one that would run code.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is refused: it is not a file of weights alone; nothing in it was run"
        ) from error
    except Exception as error:  # whatever its reader makes of bytes that are no file of its own
        raise CheckpointError(
            f"{path} is not a .pth file, as PyTorch writes them ({first_line(error)})"
        ) from error
    if isinstance(content, dict):
        content = next((content[k] for k in _WEIGHTS_UNDER if k in content), content)
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"{path} holds no weights by name, alone or under 'teacher'")
    if any(v.numel() * v.element_size() > v.untyped_storage().nbytes() for v in content.values()):
        raise CheckpointError(f"{path} claims larger weights than it holds")
    return {name.removeprefix("module."): value for name, value in content.items()}
