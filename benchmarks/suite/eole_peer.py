"""eole as a peer in training, where it is installed: `pip install eole` brings 34 more packages.

It has the same sizes but not the same weights: its layers are pre-norm.
"""

from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F

from .peers import NotAvailable
from .torch_peers import PADDING, TorchPeer
from .weights import DROPOUT
from .work import Size

try:
    from eole.config.models import TransformerModelConfig
    from eole.models.model import EncoderDecoderModel
except ImportError as error:
    raise NotAvailable(f"{error}: pip install eole") from error


class Eole(TorchPeer):
    def load(self, size: Size, folder: Path) -> nn.Module:
        torch.manual_seed(0)
        config = TransformerModelConfig(
            architecture="transformer",
            hidden_size=size.width,
            layers=size.layers,
            heads=size.heads,
            transformer_ff=size.inner,
            mlp_activation_fn="relu",
            embeddings={"word_vec_size": size.width, "position_encoding_type": "SinusoidalInterleaved"},
            share_embeddings=True,
            add_qkvbias=True,
            add_ffnbias=True,
            add_final_linear_bias=True,
        )
        words = {"<pad>" if number == PADDING else str(number): number for number in range(size.vocabulary)}
        vocabularies = {"src": words, "tgt": words, "specials": {"pad_token": "<pad>"}}
        settings = SimpleNamespace(
            dropout=[DROPOUT],
            attention_dropout=[0.0],
            self_attn_backend="pytorch",
            parallel_gpu=1,
            world_size=1,
            gpu_ranks=[],
            use_ckpting=[],
            optim="adamw",
            compute_dtype=torch.float32,
        )
        model = EncoderDecoderModel.build_blocks(config, vocabularies, settings)
        for name, weight in model.named_parameters():  # some of them are uninitialised memory
            if weight.dim() > 1:
                nn.init.xavier_uniform_(weight)
            else:
                nn.init.constant_(weight, float("norm" in name and name.endswith("weight")))
        return model

    def loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        labels, source = batch["labels"], batch["input_ids"]
        target = F.pad(labels.masked_fill(labels < 0, PADDING), (1, 0), value=0)
        states = self.call(source, target, batch["attention_mask"].sum(1)).dec_out
        words = self.model.tgt_emb.embeddings.weight
        return F.cross_entropy((states @ words.T).flatten(0, 1).float(), labels.flatten())
