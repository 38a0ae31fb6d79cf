"""The `vanilla-transformer` command. Its modules import torch and transformers once a verb runs."""

from .app import app, main

__all__ = ["app", "main"]
