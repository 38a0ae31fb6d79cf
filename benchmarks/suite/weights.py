"""One set of random weights in the form of every peer that can hold them."""

import contextlib
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import MarianConfig, MarianMTModel, PreTrainedModel, ViTConfig, ViTForImageClassification

from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerForConditionalGeneration,
    VanillaTransformerForImageClassification,
    VanillaTransformerVisionConfig,
)

from .work import LABELS, PATCH, SIDE, Size

DROPOUT = 0.1
LONGEST = 4096


def write(size: Size, task: str, folder: Path) -> None:
    """Save the models of this size below `folder`, each in a folder with its peer's name."""
    torch.manual_seed(0)
    if task == "images":
        ours: PreTrainedModel = VanillaTransformerForImageClassification(vision_config(size))
        ours.save_pretrained(folder / "ours")
        vit = ViTForImageClassification(vit_config(size))
        vit.load_state_dict(as_vit(ours))
        vit.save_pretrained(folder / "vit")
        return
    ours = VanillaTransformerForConditionalGeneration(text_config(size))
    liven(ours)
    ours.save_pretrained(folder / "ours")
    (folder / "torch.nn").mkdir()
    save_file(as_torch_nn(ours), folder / "torch.nn" / "model.safetensors")
    marian = MarianMTModel(marian_config(size))
    marian.load_state_dict(as_marian(ours), strict=False)
    marian.save_pretrained(folder / "marian")
    with contextlib.suppress(ImportError):
        write_ctranslate2(marian, folder / "ctranslate2")


def liven(model: PreTrainedModel) -> None:
    """Change fresh weights so that every output token depends on those before it.

    With tied words, a fresh model repeats its last token for ever, and all decoders agree. Here the last
    norm changes the signs of random entries, so that a word resembles other words than itself.
    """
    words = model.get_input_embeddings().weight
    nn.init.normal_(words, std=words.shape[1] ** -0.5)
    last = model.model.decoder.layers[-1].feed_forward_add_norm.norm.weight
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "o_proj.weight" in name or "fc2.weight" in name:
                weight *= 0.5
        last *= torch.randint(0, 2, last.shape) * 2 - 1


def text_config(size: Size) -> VanillaTransformerConfig:
    return VanillaTransformerConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=size.inner,
        num_attention_heads=size.heads,
        encoder_layers=size.layers,
        decoder_layers=size.layers,
        dropout=DROPOUT,
        max_position_embeddings=LONGEST,
    )


def bart_sizes(size: Size) -> dict:
    """Settings that Marian and BART share: the sizes, and the ids of `work.FIRST_TOKEN`."""
    return dict(
        vocab_size=size.vocabulary,
        d_model=size.width,
        encoder_layers=size.layers,
        decoder_layers=size.layers,
        encoder_ffn_dim=size.inner,
        decoder_ffn_dim=size.inner,
        encoder_attention_heads=size.heads,
        decoder_attention_heads=size.heads,
        activation_function="relu",
        dropout=DROPOUT,
        scale_embedding=True,
        max_position_embeddings=LONGEST,
        bos_token_id=0,
        decoder_start_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        forced_eos_token_id=None,
    )


def marian_config(size: Size) -> MarianConfig:
    return MarianConfig(**bart_sizes(size))


def vision_config(size: Size) -> VanillaTransformerVisionConfig:
    return VanillaTransformerVisionConfig(
        image_size=SIDE,
        patch_size=PATCH,
        hidden_size=size.width,
        intermediate_size=size.inner,
        num_attention_heads=size.heads,
        encoder_layers=size.layers,
        dropout=0.0,  # as in ViT's configuration
        num_labels=LABELS,
    )


def vit_config(size: Size) -> ViTConfig:
    return ViTConfig(
        image_size=SIDE,
        patch_size=PATCH,
        hidden_size=size.width,
        intermediate_size=size.inner,
        num_attention_heads=size.heads,
        num_hidden_layers=size.layers,
        layer_norm_eps=vision_config(size).layer_norm_eps,
        num_labels=LABELS,
    )


def renamed(name: str, names: dict[str, str]) -> str:
    for before, after in names.items():
        name = name.replace(before, after)
    return name


def as_marian(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Marian's sinusoids have all sines before all cosines, so every vector's entries change their order."""
    width = model.config.hidden_size
    order = torch.cat((torch.arange(0, width, 2), torch.arange(1, width, 2)))
    names = {
        "self_attn_add_norm.norm": "self_attn_layer_norm",
        "cross_attn_add_norm.norm": "encoder_attn_layer_norm",
        "feed_forward_add_norm.norm": "final_layer_norm",
        "cross_attn.": "encoder_attn.",
        "feed_forward.": "",
        "o_proj": "out_proj",
    }
    weights = {}
    for name, weight in model.state_dict().items():
        if "lm_head" in name or "embed_tokens" in name:
            continue
        reads = name.endswith(
            ("q_proj.weight", "k_proj.weight", "v_proj.weight", "fc1.weight", "shared.weight")
        )
        writes = ("o_proj" in name) or ("fc2" in name) or ("norm" in name)
        weight = weight[:, order] if reads else weight[order] if writes else weight
        weights[renamed(name, names)] = weight.contiguous()
    for part in ("model.encoder.embed_tokens", "model.decoder.embed_tokens", "lm_head"):
        weights[f"{part}.weight"] = weights["model.shared.weight"]
    return weights


def as_torch_nn(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The state of `torch.nn.Transformer` without last norms, and the matrix of words as "words"."""
    names = {"model.": "", "cross_attn.": "multihead_attn.", "o_proj": "out_proj", "feed_forward.": ""}
    names |= {"fc1": "linear1", "fc2": "linear2", "self_attn_add_norm.norm": "norm1"}
    state, weights = model.state_dict(), {"words": model.get_input_embeddings().weight.detach()}
    for name, weight in state.items():
        if ".layers." not in name or "k_proj" in name or "v_proj" in name:
            continue
        in_decoder = "decoder" in name
        last = {"cross_attn_add_norm.norm": "norm2", "feed_forward_add_norm.norm": f"norm{2 + in_decoder}"}
        if "q_proj" in name:
            parts = [state[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            name, weight = name.replace("q_proj.", "in_proj_"), torch.cat(parts)
        weights[renamed(name, last | names)] = weight.contiguous()
    return weights


def as_vit(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    config, encoder = model.config, model.model.encoder
    names = {
        "self_attn.": "attention.",
        "self_attn_add_norm.norm": "layernorm_before",
        "feed_forward_add_norm.norm": "layernorm_after",
        "feed_forward.": "mlp.",
        "model.encoder.norm": "vit.layernorm",
        "model.encoder.layers": "vit.layers",
        "model.encoder.embed_patches": "vit.embeddings.patch_embeddings",
    }
    weights = {}
    for name, weight in model.state_dict().items():
        if "class_token" in name or "embed_positions" in name:
            continue
        if "embed_patches.projection.weight" in name:
            weight = weight.unflatten(1, (config.num_channels, config.patch_size, config.patch_size))
        weights[renamed(name, names)] = weight
    first = encoder.class_token.weight.detach()  # ViT adds a position to it
    weights["vit.embeddings.cls_token"] = torch.zeros_like(first)[None]
    positions = torch.cat((first, encoder.embed_positions.weight.detach()))
    weights["vit.embeddings.position_embeddings"] = positions[None]
    return weights


def write_ctranslate2(model: MarianMTModel, folder: Path) -> None:
    """Convert without a tokenizer: the words of the vocabulary are the numbers of its ids."""
    from ctranslate2.converters.transformers import BartLoader

    # MarianMTLoader starts the decoder with zeros instead of the first token's embedding.
    model.config.normalize_before = model.config.normalize_embedding = False
    spec = BartLoader().get_model_spec(model)
    words = [str(number) for number in range(model.config.vocab_size)]
    BartLoader().set_vocabulary(spec, words)
    spec.config.bos_token = spec.config.decoder_start_token = words[model.config.decoder_start_token_id]
    spec.config.eos_token, spec.config.unk_token = words[model.config.eos_token_id], words[1]
    spec.validate()
    folder.mkdir()
    spec.save(str(folder))
