"""Compiles a model's layers with torch.compile, where a recipe asks for it (`model: {compile: true}`).

Each layer alone, not the model as a whole: layers share their code, so one of thirty is compiled in seconds
where the whole takes minutes, and what is between layers costs nothing. Torch compiles them apart for one
row, for several, and for those with a mask, up to eight times in a process; what comes beyond runs as it is.
"""

from __future__ import annotations

from typing import Any

from torch import nn


def compile_layers(body: nn.Module) -> None:
    """Lets every layer of a model be compiled at its next call, for batches of any size and length.

    Args:
        body: The model without its output layer; changed in place.

    Raises:
        ValueError: If it has no list of layers.
    """
    for layer in decoder_layers(body):
        # The compiler's own processes would outlive a worker that is killed, and there is little to compile.
        layer.compile(dynamic=True, options={"compile_threads": 1})


def decoder_layers(body: nn.Module) -> nn.ModuleList:
    """The list that holds most of a model's weights: its layers, not the experts within one.

    Raises:
        ValueError: If there is no list of modules at all.
    """
    lists = [module for module in body.modules() if isinstance(module, nn.ModuleList) and len(module)]
    if not lists:
        raise ValueError(f"{type(body).__name__} has no list of layers")
    return max(lists, key=_weights)  # of equal ones the outermost, which comes first


def _weights(module: Any) -> int:  # noqa: ANN401 - torch calls the result of numel Any
    return sum(weight.numel() for weight in module.parameters())
