"""The device of the tests that a GPU is for."""

import pytest
import torch


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    """CUDA, or with --device cpu the CPU, where what can be is checked at the same small size."""
    wanted: str = request.config.getoption("--device")
    if wanted == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device; --device cpu runs what the CPU can")
    return torch.device(wanted)


@pytest.fixture
def cuda(device: torch.device) -> torch.device:
    """CUDA, for what a CPU has nothing of."""
    if device.type != "cuda":
        pytest.skip("only CUDA has this")
    return device
