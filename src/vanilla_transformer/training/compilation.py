"""Compile the layers of a model, not the whole: one compilation serves all layers and all shapes."""

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer


def compile_layers(model: nn.Module, backend: str | None, mode: str | None) -> bool:
    """Compile the layers of any model of transformers in place; return False if it has none.

    Names of weights stay. Lengths and rows are dynamic, so that no batch compiles again.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for layer in layers:
        layer.compile(backend=backend or "inductor", mode=mode, dynamic=True)
    return bool(layers)
