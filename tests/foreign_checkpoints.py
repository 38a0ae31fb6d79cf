"""Checkpoints in the layouts of fairseq, JoeyNMT, OpenNMT-py and eole, around one `torch.nn.Transformer`.

The layouts were compared to files that fairseq 0.12, JoeyNMT 2.3, OpenNMT-py 3.5 and eole 0.6 wrote.
"""

import argparse
import json
import math
import re

import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from vanilla_transformer.embeddings import sinusoids

WIDTH, HEADS, INNER, WORDS = 32, 4, 64, 61
LAYERS = {"encoder": 2, "decoder": 3}


class Reference(nn.Module):
    """An encoder-decoder; `positions` is `(longest, width)`."""

    def __init__(
        self,
        positions,
        *,
        pre,
        final_norm=None,
        tied,
        eps,
        words=WORDS,
        target_words=None,
        scale=True,
        bias=True,
        output_bias,
    ):
        super().__init__()
        target_words = target_words or words
        torch.manual_seed(0)
        self.positions, self.scale = positions, math.sqrt(WIDTH) if scale else 1.0
        self.transformer = nn.Transformer(
            WIDTH,
            HEADS,
            *LAYERS.values(),
            INNER,
            batch_first=True,
            norm_first=pre,
            layer_norm_eps=eps,
        )
        if not (pre if final_norm is None else final_norm):
            self.transformer.encoder.norm = self.transformer.decoder.norm = None
        self.source = nn.Embedding(words, WIDTH)
        self.target = nn.Embedding(target_words, WIDTH)
        self.output = nn.Linear(WIDTH, target_words, bias=output_bias)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if isinstance(self.get_submodule(name.rpartition(".")[0]), nn.Embedding):
                    parameter.mul_(0.3)
                parameter.add_(torch.randn_like(parameter) * 0.2)
                if not bias and name.endswith("bias") and "_attn" in name:
                    parameter.zero_()
            for module in self.modules():
                if isinstance(module, nn.LayerNorm):
                    module.eps = eps
            if tied != "none":
                self.output.weight = self.target.weight
            if tied == "all":
                self.source.weight = self.target.weight
        self.eval()

    def forward(self, input_ids, attention_mask, decoder_input_ids):
        def embed(table, ids):
            return table(ids) * self.scale + self.positions[: ids.shape[1]]

        padding = attention_mask == 0
        states = self.transformer(
            embed(self.source, input_ids),
            embed(self.target, decoder_input_ids),
            tgt_mask=nn.Transformer.generate_square_subsequent_mask(decoder_input_ids.shape[1]),
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
        )
        return self.output(states)

    def layers(self, attention: str) -> dict[str, torch.Tensor]:
        """The weights of the stacks, with queries, keys and values apart.

        Args:
            attention: names the projections: "{part}_proj" gives q_proj, k_proj and v_proj.
        """
        found = {}
        for name, weight in self.transformer.state_dict().items():
            if match := re.fullmatch(r"(.*\.)in_proj_(weight|bias)", name):
                for part, value in zip("qkv", weight.chunk(3)):
                    found[f"{match[1]}{attention.format(part=part)}.{match[2]}"] = value.clone()
            else:
                found[name] = weight
        return found


def renamed(weights, *rules):
    result = {}
    for name, weight in weights.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        result[name] = weight
    return result


def fairseq_positions(longest):
    """`SinusoidalPositionalEmbedding.get_embedding` of fairseq, from the first real position on."""
    half = WIDTH // 2
    steps = torch.exp(torch.arange(half, dtype=torch.float) * -(math.log(10000) / (half - 1)))
    angles = torch.arange(longest + 2, dtype=torch.float)[:, None] * steps
    return torch.cat([angles.sin(), angles.cos()], dim=1)[2:]


def write_fairseq(
    folder, *, pre=False, tied="all", words=WORDS, target_words=None, learned=False, new=False, **changes
):
    table = torch.randn(40, WIDTH) if learned else fairseq_positions(40)
    model = Reference(
        table,
        pre=pre,
        tied=tied,
        eps=1e-5,
        words=words,
        target_words=target_words,
        output_bias=False,
        scale=not learned,
    )
    weights = renamed(
        model.layers("{part}_proj"),
        (r"multihead_attn", "encoder_attn"),
        (r"linear([12])", r"fc\1"),
        (r"norm1", "self_attn_layer_norm"),
        (r"(encoder.*)norm2", r"\1final_layer_norm"),
        (r"(decoder.*)norm2", r"\1encoder_attn_layer_norm"),
        (r"norm3", "final_layer_norm"),
        (r"^(encoder|decoder)\.norm", r"\1.layer_norm"),
    )
    weights["encoder.embed_tokens.weight"] = model.source.weight.detach()
    weights["decoder.embed_tokens.weight"] = model.target.weight.detach()
    weights["decoder.output_projection.weight"] = model.output.weight.detach()
    for stack in LAYERS:
        weights[f"{stack}.version"] = torch.tensor([3.0])
        if learned:
            weights[f"{stack}.embed_positions.weight"] = torch.cat([torch.zeros(2, WIDTH), table])
        else:
            weights[f"{stack}.embed_positions._float_tensor"] = torch.zeros(1)
    settings = {
        "arch": "transformer",
        "activation_fn": "relu",
        "no_scale_embedding": learned,
        "max_source_positions": 40,
        "max_target_positions": 40,
        "dropout": 0.1,
        "source_lang": "en",
        "target_lang": "es",
    }
    for stack, layers in LAYERS.items():
        settings |= {
            f"{stack}_embed_dim": WIDTH,
            f"{stack}_ffn_embed_dim": INNER,
            f"{stack}_attention_heads": HEADS,
            f"{stack}_layers": layers,
            f"{stack}_normalize_before": pre,
            f"{stack}_learned_pos": learned,
        }
    settings |= changes
    space = argparse.Namespace(**settings)
    where = {"args": None, "cfg": {"task": {}, "model": space}} if new else {"args": space}
    folder.mkdir(exist_ok=True)
    torch.save({**where, "model": weights}, folder / "checkpoint_best.pt")
    return model


def write_joeynmt(
    folder, *, pre=True, final_norm=None, tied="all", words=WORDS, target_words=None, scale=True, **changes
):
    model = Reference(
        sinusoids(torch.arange(50), WIDTH),
        pre=pre,
        final_norm=final_norm,
        tied=tied,
        eps=1e-6,
        words=words,
        target_words=target_words,
        scale=scale,
        output_bias=False,
    )
    weights = renamed(
        model.layers("{part}_layer"),
        (r"(encoder.*)self_attn", r"\1src_src_att"),
        (r"(decoder.*)self_attn", r"\1trg_trg_att"),
        (r"multihead_attn", "src_trg_att"),
        (r"out_proj", "output_layer"),
        (r"linear1", "feed_forward.pwff_layer.0"),
        (r"linear2", "feed_forward.pwff_layer.3"),
        (r"(encoder.*)norm1", r"\1layer_norm"),
        (r"(encoder.*)norm2", r"\1feed_forward.layer_norm"),
        (r"(decoder.*)norm1", r"\1x_layer_norm"),
        (r"(decoder.*)norm2", r"\1dec_layer_norm"),
        (r"norm3", "feed_forward.layer_norm"),
        (r"^(encoder|decoder)\.norm", r"\1.layer_norm"),
    )
    weights |= {f"{stack}.pe.pe": model.positions[None] for stack in LAYERS}
    weights["src_embed.lut.weight"] = model.source.weight.detach()
    weights["trg_embed.lut.weight"] = model.target.weight.detach()
    weights["decoder.output_layer.weight"] = model.output.weight.detach()
    stack = {
        "type": "transformer",
        "hidden_size": WIDTH,
        "ff_size": INNER,
        "num_heads": HEADS,
        "dropout": 0.1,
        "layer_norm": "pre" if pre else "post",
        "embeddings": {"embedding_dim": WIDTH, "scale": scale},
    }
    settings = {name: {**stack, "num_layers": layers, **changes} for name, layers in LAYERS.items()}
    config = {
        "model": {**settings, "tied_softmax": tied != "none"},
        "data": {"src": {"lang": "en", "level": "bpe"}, "trg": {"lang": "es", "level": "bpe"}},
        "testing": {"beam_size": 5, "beam_alpha": 1.5, "max_output_length": 30},
    }
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    state = {"model_state": weights, "optimizer_state": {}, "train_iter_state": torch.zeros(3)}
    torch.save(state, folder / "best.ckpt")
    return model


def opennmt_vocabulary(words):
    return ["<unk>", "<blank>", "<s>", "</s>", *(f"w{index}" for index in range(words - 4))]


def opennmt_model(tied, words, target_words, bias=True, concatenated=False):
    if concatenated:  # SinusoidalConcat
        steps = torch.exp(torch.arange(WIDTH // 2).float() * -(math.log(10000) / (WIDTH // 2 - 1)))
        angles = torch.arange(50).float()[:, None] * steps
        table = torch.cat([angles.sin(), angles.cos()], dim=1)
    else:
        table = sinusoids(torch.arange(50), WIDTH)
    eps = 1e-6 if bias else 1e-5
    sizes = {"words": words, "target_words": target_words}
    return Reference(table, pre=True, tied=tied, eps=eps, **sizes, bias=bias, output_bias=True)


COMMON = (
    (r"linear_q", "linear_query"),
    (r"linear_k", "linear_keys"),
    (r"linear_v", "linear_values"),
    (r"out_proj", "final_linear"),
    (r"multihead_attn", "context_attn"),
    (r"^(encoder|decoder)\.norm", r"\1.layer_norm"),
)


def write_opennmt(
    folder, *, tied="all", target_words=WORDS, vocabulary=None, concatenated=False, split=False, **changes
):
    vocabulary = vocabulary or {"src": opennmt_vocabulary(WORDS), "tgt": opennmt_vocabulary(target_words)}
    model = opennmt_model(tied, *map(len, vocabulary.values()), concatenated=concatenated)
    weights = renamed(
        model.layers("linear_{part}"),
        *COMMON,
        (r"linear([12])", r"feed_forward.w_\1"),
        (r"(encoder.*)norm1", r"\1layer_norm"),
        (r"(encoder.*)norm2", r"\1feed_forward.layer_norm"),
        (r"(decoder.*)norm([12])", r"\1layer_norm_\2"),
        (r"norm3", "feed_forward.layer_norm"),
        (r"encoder\.layers", "encoder.transformer"),
        (r"decoder\.layers", "decoder.transformer_layers"),
    )
    for stack, table in (("encoder", model.source), ("decoder", model.target)):
        weights[f"{stack}.embeddings.make_embedding.emb_luts.0.weight"] = table.weight.detach()
        weights[f"{stack}.embeddings.make_embedding.pe.pe"] = model.positions[:, None]
    options = {
        "encoder_type": "transformer",
        "decoder_type": "transformer",
        "heads": HEADS,
        "position_encoding": True,
        "max_relative_positions": 0,
        "pos_ffn_activation_fn": "relu",
        "layer_norm": "standard",
        "norm_eps": 1e-6,
        "dropout": [0.1],
    }
    generator = {"weight": model.output.weight.detach(), "bias": model.output.bias.detach()}
    held = {
        "opt": argparse.Namespace(**options | changes),
        "vocab": vocabulary,
        "optim": {},
    }
    folder.mkdir(exist_ok=True)
    if split:  # save_format: safetensors
        weights |= {f"generator.{name}": weight for name, weight in generator.items()}
        save_file({name: weight.clone() for name, weight in weights.items()}, folder / "model.safetensors")
        torch.save(held, folder / "model.pt")
    else:
        torch.save({**held, "model": weights, "generator": generator}, folder / "model.pt")
    return model


def write_eole(
    folder,
    *,
    tied="all",
    target_words=WORDS,
    vocabulary=None,
    transforms=None,
    stacks=None,
    scalar=1.0,
    **changes,
):
    vocabulary = vocabulary or {"src": opennmt_vocabulary(WORDS), "tgt": opennmt_vocabulary(target_words)}
    model = opennmt_model(tied, len(vocabulary["src"]), len(vocabulary["tgt"]), bias=False)
    weights = renamed(
        model.layers("linear_{part}"),
        *COMMON,
        (r"linear1", "mlp.gate_up_proj"),
        (r"linear2", "mlp.down_proj"),
        (r"norm1", "input_layernorm"),
        (r"(encoder.*)norm2", r"\1post_attention_layernorm"),
        (r"(decoder.*)norm2", r"\1precontext_layernorm"),
        (r"norm3", "post_attention_layernorm"),
        (r"\.layers", ".transformer_layers"),
    )
    weights = {name: weight for name, weight in weights.items() if not re.search(r"_attn.*bias", name)}
    for index in range(LAYERS["decoder"]):
        weights[f"decoder.transformer_layers.{index}.layer_scalar"] = torch.tensor([scalar])
    weights["src_emb.embeddings.weight"] = model.source.weight.detach()
    weights["src_emb.pe.pe"] = weights["tgt_emb.pe.pe"] = model.positions[:, None]
    weights["generator.bias"] = model.output.bias.detach()
    if tied != "all":
        weights["tgt_emb.embeddings.weight"] = model.target.weight.detach()
    if tied == "none":
        weights["generator.weight"] = model.output.weight.detach()
    config = {
        "transforms": list(transforms or ()),
        "transforms_configs": transforms or {},
        "training": {"dropout": [0.1]},
        "model": {
            "architecture": "transformer",
            "heads": HEADS,
            "embeddings": {"position_encoding": True},
            **(stacks or {}),
            **changes,
        },
    }
    folder.mkdir(exist_ok=True)
    save_file({name: weight.clone() for name, weight in weights.items()}, folder / "model.00.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    return model
