"""Files of weights whose bytes depend on nothing but the tensors and the metadata."""

import io
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def safetensors_bytes(
    tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Return a safetensors file, its metadata in the order of the keys.

    safetensors itself (0.8) writes metadata in the order of a hash that is seeded anew in each
    process, so two keys are enough for two different files. Without metadata, and with one key,
    the bytes are the library's own.

    Args:
        tensors: Contiguous tensors by name.
        metadata: Text by key.
    """
    from safetensors.torch import save

    data = save(dict(tensors))  # tensors stand in the order of dtype and name
    if not metadata:
        return data
    end = 8 + int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(data[8:end])}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors are aligned to 8 bytes
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(data)[end:]))


def pth_bytes(content: Mapping[str, object]) -> bytes:
    """Return a file as `torch.save` writes it.

    Not to a path: torch names the archive inside after the file, which is a temporary one here.
    """
    import torch

    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    return buffer.getvalue()
