"""Setting a network to weights from a file: all of them, of the right shapes, and numbers."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from wtours.errors import CheckpointError
from wtours.text import listed


def read_safetensors(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """Return the tensors of a file by name.

    Raises:
        CheckpointError: it cannot be read, or is damaged.
    """
    try:
        return load_file(path, device=device)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors ({error})") from error


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Set a network to weights by name; see `require_weights`."""
    require_weights(network, weights, what)
    network.load_state_dict(dict(weights))


N = TypeVar("N", bound=nn.Module)


def build_with(build: Callable[[], N], weights: Mapping[str, Tensor], what: str) -> N:
    """Return a network with weights by name, built only if they are its own; see `require_weights`.

    So a file takes no memory for what it does not hold, whatever sizes it claims.
    """
    with torch.device("meta"):
        require_weights(build(), weights, what)
    network = build()
    network.load_state_dict(dict(weights))
    return network


def require_weights(network: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Refuse weights that are not those of a network.

    Args:
        network: May be on the meta device, where it takes no memory whatever its sizes.
        weights: By name.
        what: Begins the message, "FILE does not hold the weights of MODEL".

    Raises:
        CheckpointError: one is missing, not of this network, or of another shape, or is not finite;
            the message names the first of each kind.
    """
    expected = network.state_dict()
    shared = [name for name in expected if name in weights]
    problems = [
        f"{listed(names, most=1)} {problem}"
        for names, problem in (
            ([name for name in expected if name not in weights], "missing"),
            ([name for name in weights if name not in expected], "not of it"),
            (
                [
                    f"{name} is {_size(weights[name])}, not {_size(expected[name])}:"
                    for name in shared
                    if weights[name].shape != expected[name].shape
                ],
                "of another size",
            ),
        )
        if names
    ]
    if problems:
        raise CheckpointError(f"{what} ({'; '.join(problems)})")
    require_finite(weights, what)


def require_finite(weights: Mapping[str, Tensor], what: str) -> None:
    """Refuse weights of which one is not a number.

    Raises:
        CheckpointError: see above.
    """
    for name, value in weights.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise CheckpointError(f"{what} ({name} is not finite: NaN or infinite)")


def _size(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "one number"
