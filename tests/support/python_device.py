"""A device written in Python: computes on the CPU, knows where each operand lies, counts waits.

torch keeps PrivateUse1 for devices of others. Here its tensors wrap CPU tensors, so that whole
steps of training run on "accel" without a GPU. An operation with operands on two devices is an
error, as on CUDA, and whatever would make the host wait for a GPU is counted: copies to the host,
blocking copies to the device, and operations whose result's shape depends on values.
"""

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "accel"
_ATEN = torch.ops.aten
_WAITS = {
    getattr(getattr(_ATEN, name), overload)
    for name, overload in (
        *((name, "default") for name in ("_local_scalar_dense", "nonzero", "masked_select")),
        *((name, "default") for name in ("equal", "is_nonzero", "bincount", "linalg_inv_ex")),
        *((name, "default") for name in ("_unique2", "unique_dim", "unique_consecutive")),
        *((name, "default") for name in ("_linalg_eigh", "_linalg_svd")),
        ("repeat_interleave", "Tensor"),
    )
}
"""What waits for a GPU: the result's shape, or whether it failed, is known when it is done."""
_INDEXING = {
    *(_ATEN.index.Tensor, _ATEN.index_put_.default, _ATEN.index_put.default),
    _ATEN._index_put_impl_.default,
}


class DeviceTensor(torch.Tensor):
    """A tensor on the device, around one on the CPU."""

    on_cpu: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "DeviceTensor":
        outer = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
        )
        outer.on_cpu = inner
        return outer

    def __init__(self, inner: torch.Tensor) -> None:
        pass

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"DeviceTensor({self.on_cpu!r})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[override]
        raise RuntimeError(f"{func} outside of the device's mode")


class Device(TorchDispatchMode):
    """While entered, "accel" is a device; `waits` counts by place what the host waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = list(_tensors((args, kwargs)))
        ours = any(isinstance(value, DeviceTensor) for value in tensors)
        wanted = kwargs.get("device")
        here = wanted is not None and torch.device(wanted).type == NAME
        if not ours and not here:
            return func(*args, **kwargs)
        if func in (_ATEN._to_copy.default, _ATEN.copy_.default):
            return self._copy(func, args, kwargs)
        if here:
            kwargs["device"] = torch.device("cpu")
        self._check(func, tensors)
        # What an operation changes in place is the very tensor it was given.
        given = {id(t.on_cpu): t for t in tensors if isinstance(t, DeviceTensor)}
        result = func(*_inner(args), **_inner(kwargs))
        return _mapped(lambda t: given[id(t)] if id(t) in given else DeviceTensor(t), result)

    def _check(self, func: Any, tensors: list[torch.Tensor]) -> None:
        strange = [t for t in tensors if not isinstance(t, DeviceTensor) and t.dim() > 0]
        on_device = [t for t in tensors if isinstance(t, DeviceTensor)]
        if strange and on_device:
            raise RuntimeError(
                f"{func} has an operand on {strange[0].device} beside one on {NAME}, at {_place()}"
            )
        by_mask = func in _INDEXING and any(t.dtype == torch.bool for t in tensors[1:])
        # A scalar put under a mask is a masked fill.
        if func in _WAITS or (by_mask and (func is _ATEN.index.Tensor or tensors[-1].dim() > 0)):
            self._wait(func)

    def _copy(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if func is _ATEN.copy_.default:
            target, source = args[0], args[1]
            non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
            crosses = isinstance(target, DeviceTensor) != isinstance(source, DeviceTensor)
            if crosses and (source.dim() > 0 or isinstance(source, DeviceTensor)):
                self._crossing(func, to_device=isinstance(target, DeviceTensor), free=non_blocking)
            _inner(target).copy_(_inner(source))
            return target
        source = args[0]
        wanted = kwargs.pop("device", None)
        onto = isinstance(source, DeviceTensor) if wanted is None else wanted.type == NAME
        non_blocking = kwargs.pop("non_blocking", False)
        if onto != isinstance(source, DeviceTensor):
            self._crossing(func, to_device=onto, free=non_blocking)
        copied = func(_inner(source), **kwargs, device=torch.device("cpu"))
        return DeviceTensor(copied) if onto else copied

    def _crossing(self, func: Any, *, to_device: bool, free: bool) -> None:
        # To the host without waiting would be wrong: who reads it does not know when it is there.
        if not (to_device and free):
            self._wait(f"{func} {'to the device' if to_device else 'to the host'}")

    def _wait(self, what: Any) -> None:
        self.waits[f"{what} at {_place()}"] += 1


def register() -> None:
    """Make "accel" a device of this process; torch cannot forget it again."""
    from torch.utils import backend_registration

    class Module(backend_registration._DummyBackendModule):
        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16, torch.float16, torch.float32]

    backend_registration._setup_privateuseone_for_python_backend(NAME, Module())


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of an operation's arguments."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _mapped(function: Callable[[torch.Tensor], torch.Tensor], value: Any) -> Any:
    """Return arguments or results with other tensors, as torch's slower `tree_map` does."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, list | tuple):
        return type(value)(_mapped(function, part) for part in value)
    if isinstance(value, dict):
        return {name: _mapped(function, part) for name, part in value.items()}
    return value


def _inner(value: Any) -> Any:
    return _mapped(lambda t: t.on_cpu if isinstance(t, DeviceTensor) else t, value)


def _place() -> str:
    """The innermost line of ours that led here."""
    for frame in reversed(traceback.extract_stack()):
        if "/training/" in frame.filename and "/tests/" not in frame.filename:
            return f"{frame.filename.rpartition('/training/')[2]}:{frame.lineno}"
    return "?"
