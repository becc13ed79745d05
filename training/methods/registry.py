"""The methods by the name that the config's `method` gives; a new one has its row here."""

from typing import Any

from training.config.methods import MethodName
from training.config.train import TrainConfig
from training.methods.attmask import Attmask
from training.methods.base import Method
from training.methods.dino import Dino
from training.methods.dora import Dora, DoraImages
from training.methods.ibot import Ibot
from training.methods.simclr import Simclr
from training.methods.swav import Swav
from training.methods.vicreg import Vicreg
from wtours.errors import UsageError

METHODS: dict[MethodName, type[Method[Any]]] = {
    "dora": Dora,
    "dino": Dino,
    "dora_images": DoraImages,
    "simclr": Simclr,
    "swav": Swav,
    "vicreg": Vicreg,
    "ibot": Ibot,
    "attmask": Attmask,
}


def method_class(config: TrainConfig) -> type[Method[Any]]:
    """Return the class of the config's method."""
    return METHODS[config.method]


def is_additive(config: TrainConfig) -> bool:
    """Return whether the loss of a batch is the mean of those of its micro-batches."""
    return method_class(config).additive and not config.loss.koleo_weight


def build_method(config: TrainConfig) -> Method[Any]:
    """Return the config's method, untrained, on the CPU.

    Raises:
        UsageError: settings that do not fit each other, the backbone or the method.
    """
    if config.optim.accumulation_steps > 1 and not is_additive(config):
        couples = f"method={config.method}"
        if method_class(config).additive:
            couples = f"loss.koleo_weight={config.loss.koleo_weight:g}"
        raise UsageError(
            f"optim.accumulation_steps ({config.optim.accumulation_steps}) must be 1 for "
            f"{couples}, whose loss compares all clips of a step with each other: lower "
            f"optim.global_batch_size, use more processes or model.activation_checkpointing=true"
        )
    return method_class(config)(config)
