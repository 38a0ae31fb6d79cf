"""The peers that run in PyTorch: this package, transformers' models, and `torch.nn.Transformer`.

Every peer has `outputs()`, which the suite compares before it measures, and `step()`, which it measures.
"""

import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from transformers import BartConfig, BartForConditionalGeneration, MarianMTModel, ViTForImageClassification
from transformers.utils import logging

from vanilla_transformer import (
    VanillaTransformerForConditionalGeneration,
    VanillaTransformerForImageClassification,
)
from vanilla_transformer.embeddings import sinusoids
from vanilla_transformer.losses import TrainingLoss

from .peers import NotAvailable
from .weights import DROPOUT, bart_sizes
from .work import LABELS, SIDE, Size, Work

PADDING, IGNORED = 1, -100
logging.set_verbosity_error()
logging.disable_progress_bar()


def padded(rows: list[list[int]], value: int) -> torch.Tensor:
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], True, value)


def text_batch(pairs: list[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
    sources, targets = [source for source, _ in pairs], [target for _, target in pairs]
    mask = padded([[1] * len(source) for source in sources], 0)
    return {"input_ids": padded(sources, PADDING), "attention_mask": mask, "labels": padded(targets, IGNORED)}


class TorchPeer:
    """A model, its batches and, in training, its optimizer.

    Args:
        precision: None, or what the model is prepared for before it decodes.
        compiled: None, or what `torch.compile` compiles: the "model", or each of its "layers".
    """

    def __init__(
        self, work: Work, folder: Path, precision: str | None = None, compiled: str | None = None
    ) -> None:
        torch.set_num_threads(work.threads)
        self.work = work
        self.is_training = work.task in ("training", "images")
        self.model = self.load(work.size, folder).to(work.device)
        self.batches = [
            {name: value.to(work.device) for name, value in batch.items()} for batch in self.make_batches()
        ]
        if precision is not None:
            if not hasattr(self.model, "prepare_for_decoding"):
                raise NotAvailable("this version has no prepare_for_decoding()")
            self.model.prepare_for_decoding(precision)
        if compiled == "layers":
            for layer in (*self.model.model.encoder.layers, *self.model.model.decoder.layers):
                layer.compile(dynamic=True)
        self.call: Any = torch.compile(self.model, dynamic=True) if compiled == "model" else self.model
        if self.is_training:
            self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)

    def load(self, size: Size, folder: Path) -> nn.Module:
        raise NotImplementedError

    def get_ready(self) -> None:
        """Follow the check, which compares bf16's tokens in fp32, where rounding changes none."""
        self.model.train(self.is_training)
        if not self.is_training and self.work.dtype == "bf16":
            self.model.bfloat16()
        if self.work.device == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def make_batches(self) -> list[dict[str, torch.Tensor]]:
        return [text_batch(pairs) for pairs in self.work.pairs]

    def loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The mean cross-entropy of the real target tokens."""
        return self.call(**batch).loss

    def encode(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.model.get_encoder()(batch["input_ids"], batch["attention_mask"]).last_hidden_state

    def decode(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The output tokens `(sentences, length)`, without the decoder's start token."""
        length = self.work.target[1]
        lengths = {"min_new_tokens": length, "max_new_tokens": length, "num_beams": self.work.beams}
        mask = batch["attention_mask"]
        return self.model.generate(batch["input_ids"], attention_mask=mask, **lengths, **self.search())[:, 1:]

    def search(self) -> dict[str, Any]:
        """What `generate` needs beyond lengths and beams."""
        return {}

    def outputs(self) -> dict[str, Any]:
        """What is equal for all peers with the same weights: the loss without dropout, vectors, or tokens."""
        self.model.eval()
        with torch.no_grad(), self.autocast():
            if self.is_training:
                outputs: dict[str, Any] = {"loss": self.loss(self.batches[0]).item()}
            elif self.work.task == "decoding":
                outputs = {"tokens": self.decode(self.batches[0]).tolist()}
            else:
                states = self.encode(self.batches[0])[self.batches[0]["attention_mask"] == 1]
                outputs = {"norms": states.float().norm(dim=-1).tolist()}
        self.get_ready()
        return outputs

    def autocast(self) -> torch.autocast:
        enabled = self.is_training and self.work.dtype == "bf16"
        return torch.autocast(self.work.device, torch.bfloat16, enabled=enabled)

    def step(self) -> None:
        for batch in self.batches:
            if self.is_training:
                with self.autocast():
                    loss = self.loss(batch)
                loss.backward()
                self.optimizer.step()
                self.optimizer.zero_grad()
            else:
                with torch.no_grad():
                    self.decode(batch) if self.work.task == "decoding" else self.encode(batch)
        if self.work.device == "cuda":
            torch.cuda.synchronize()

    def peak_device_memory(self) -> int | None:
        return torch.cuda.max_memory_allocated() if self.work.device == "cuda" else None


class Ours(TorchPeer):
    def load(self, size: Size, folder: Path) -> nn.Module:
        if self.is_training and self.work.device == "cpu":
            from vanilla_transformer.training.memory import keep_freed_memory

            keep_freed_memory()  # as this package's Trainer does
        return VanillaTransformerForConditionalGeneration.from_pretrained(folder / "ours")

    def loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.call(**batch, training_loss=TrainingLoss()).loss

    def search(self) -> dict[str, Any]:
        return {"length_penalty_type": "gnmt", "length_penalty": 0.6} if self.work.beams > 1 else {}


class Marian(TorchPeer):
    def load(self, size: Size, folder: Path) -> nn.Module:
        return MarianMTModel.from_pretrained(folder / "marian")


class Bart(TorchPeer):
    def load(self, size: Size, folder: Path) -> nn.Module:
        torch.manual_seed(0)
        return BartForConditionalGeneration(BartConfig(**bart_sizes(size)))


class Words(nn.Module):
    """`torch.nn.Transformer` between the paper's embeddings and its output projection."""

    def __init__(self, size: Size):
        super().__init__()
        self.words = nn.Parameter(torch.empty(size.vocabulary, size.width))
        self.body = nn.Transformer(
            size.width, size.heads, size.layers, size.layers, size.inner, DROPOUT, batch_first=True
        )
        self.body.encoder.norm = self.body.decoder.norm = None  # post-norm stacks have no last norm
        positions = sinusoids(torch.arange(64), size.width)
        self.register_buffer("positions", positions, persistent=False)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        states = F.embedding(ids, self.words) * math.sqrt(self.words.shape[1])
        return F.dropout(states + self.positions[: ids.shape[1]], DROPOUT, self.training)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        before = F.pad(labels[:, :-1], (1, 0), value=0).masked_fill(
            F.pad(labels[:, :-1], (1, 0)) < 0, PADDING
        )
        padding = attention_mask == 0
        states = self.body(
            self.embed(input_ids),
            self.embed(before),
            tgt_mask=nn.Transformer.generate_square_subsequent_mask(before.shape[1], labels.device),
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
            tgt_is_causal=True,
        )
        return F.cross_entropy((states @ self.words.T).flatten(0, 1).float(), labels.flatten())


class TorchNN(TorchPeer):
    def load(self, size: Size, folder: Path) -> nn.Module:
        model = Words(size)
        weights = load_file(folder / "torch.nn" / "model.safetensors")
        model.words.data = weights.pop("words")
        model.body.load_state_dict(weights)
        return model

    def loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.call(**batch)


class Images(TorchPeer):
    def make_batches(self) -> list[dict[str, torch.Tensor]]:
        generator = torch.Generator().manual_seed(0)
        count = self.work.sentences
        return [
            {
                "pixel_values": torch.randn(count, 3, SIDE, SIDE, generator=generator),
                "labels": torch.randint(LABELS, (count,), generator=generator),
            }
            for _ in range(self.work.batches)
        ]


class OursForImages(Images):
    def load(self, size: Size, folder: Path) -> nn.Module:
        return VanillaTransformerForImageClassification.from_pretrained(folder / "ours")


class ViT(Images):
    def load(self, size: Size, folder: Path) -> nn.Module:
        return ViTForImageClassification.from_pretrained(folder / "vit")
