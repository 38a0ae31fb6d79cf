"""Who takes part: the name of a peer, the module and class that run it, and its options."""

import importlib
from typing import Any

PEERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ours": ("torch_peers", "Ours", {}),
    "ours bf16": ("torch_peers", "Ours", {"precision": "bf16"}),
    "ours int8": ("torch_peers", "Ours", {"precision": "int8"}),
    "ours compiled": ("torch_peers", "Ours", {"compiled": "model"}),
    "ours compiled layers": ("torch_peers", "Ours", {"compiled": "layers"}),
    "ours ViT": ("torch_peers", "OursForImages", {}),
    "MarianMT": ("torch_peers", "Marian", {}),
    "BART": ("torch_peers", "Bart", {}),
    "torch.nn": ("torch_peers", "TorchNN", {}),
    "eole": ("eole_peer", "Eole", {}),
    "ViT": ("torch_peers", "ViT", {}),
    "CTranslate2 fp32": ("ctranslate2_peer", "CTranslate2", {"precision": "float32"}),
    "CTranslate2 int8": ("ctranslate2_peer", "CTranslate2", {"precision": "int8"}),
}
OWN_WEIGHTS = {"BART", "eole"}  # their architectures cannot hold the weights of the others
REDUCED = {name for name in PEERS if name.endswith((" bf16", " int8"))}  # their tokens may differ


class NotAvailable(Exception):
    """A peer that this environment or this version cannot run; the message says why."""


def create(name: str, work, folder):
    """Return the peer, ready for this work, with the weights of `folder`."""
    module, class_name, options = PEERS[name]
    return getattr(importlib.import_module(f"suite.{module}"), class_name)(work, folder, **options)
