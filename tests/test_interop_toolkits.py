"""Checkpoints of fairseq, JoeyNMT, OpenNMT-py and eole give the numbers of a reference with their weights."""

import re
import sys
import types

import pytest
import torch
from foreign_checkpoints import write_eole, write_fairseq, write_joeynmt, write_opennmt
from imported_models import (
    assert_same_first_loss,
    assert_same_logits,
    assert_same_output,
    assert_same_search,
)
from transformers import AutoModelForSeq2SeqLM, FSMTConfig, FSMTForConditionalGeneration

from vanilla_transformer.interop import ConversionError, import_model

VARIANTS = {
    "fairseq": (write_fairseq, {}),
    "fairseq, pre-norm, two vocabularies": (
        write_fairseq,
        {"pre": True, "tied": "output", "target_words": 47, "new": True},
    ),
    "fairseq, learned positions": (write_fairseq, {"learned": True, "tied": "none"}),
    "joeynmt": (write_joeynmt, {}),
    "joeynmt, post-norm, two vocabularies": (
        write_joeynmt,
        {"pre": False, "tied": "none", "target_words": 47, "scale": False},
    ),
    "opennmt": (write_opennmt, {}),
    "opennmt, two vocabularies": (write_opennmt, {"tied": "none", "target_words": 47, "split": True}),
    "opennmt, concatenated sinusoids": (write_opennmt, {"tied": "output", "concatenated": True}),
    "eole": (write_eole, {}),
    "eole, two vocabularies": (write_eole, {"tied": "output", "target_words": 47}),
}


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request, tmp_path_factory):
    """The import as it is loaded from its folder, and the reference."""
    write, settings = VARIANTS[request.param]
    folder = tmp_path_factory.mktemp("foreign")
    reference = write(folder / "foreign", **settings)
    report = import_model(folder / "foreign", folder / "ours").report
    assert report.passed and report.format == request.param.split(",")[0]
    return AutoModelForSeq2SeqLM.from_pretrained(folder / "ours"), reference


def test_logits(pair):
    assert_same_logits(*pair)


def test_greedy(pair):
    assert_same_search(*pair, num_beams=1)


def test_beam_4(pair):
    assert_same_search(*pair, num_beams=4)


def test_first_loss(pair):
    assert_same_first_loss(*pair)


@pytest.fixture(scope="module", params=[True, False], ids=["joint", "separate"])
def fsmt(request, tmp_path_factory):
    torch.manual_seed(0)
    folder, joint = tmp_path_factory.mktemp("fsmt"), request.param
    config = FSMTConfig(
        src_vocab_size=61,
        tgt_vocab_size=61 if joint else 47,
        d_model=32,
        encoder_layers=2,
        decoder_layers=3,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        max_position_embeddings=40,
        max_length=30,
        tie_word_embeddings=joint,
    )
    original = FSMTForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in original.named_parameters():
            if "embed_positions" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    original.save_pretrained(folder / "fsmt")
    report = import_model(folder / "fsmt", folder / "ours").report
    assert report.passed and report.format == "fsmt" and len(report.checks) == 6
    return AutoModelForSeq2SeqLM.from_pretrained(folder / "ours"), original


def fsmt_logits(original):
    def logits(input_ids, attention_mask, decoder_input_ids):
        return original(
            input_ids, attention_mask, decoder_input_ids=decoder_input_ids, use_cache=False
        ).logits

    return logits


def test_logits_of_fsmt(fsmt):
    assert_same_logits(fsmt[0], fsmt_logits(fsmt[1]))


def test_greedy_of_fsmt(fsmt):
    assert_same_output(*fsmt, num_beams=1)


def test_beam_4_of_fsmt(fsmt):
    assert_same_output(*fsmt, num_beams=4)


def test_first_loss_of_fsmt(fsmt):
    assert_same_first_loss(fsmt[0], fsmt_logits(fsmt[1]))


def test_old_fairseq_names(tmp_path):
    """Checkpoints of 2018 have one matrix for queries, keys and values, and numbered norms."""
    reference = write_fairseq(tmp_path / "fairseq")
    held = torch.load(tmp_path / "fairseq" / "checkpoint_best.pt", weights_only=False)
    weights, new = held["model"], {}
    for name, weight in weights.items():
        if match := re.fullmatch(r"(.*)q_proj\.(weight|bias)", name):
            parts = [weights[f"{match[1]}{part}_proj.{match[2]}"] for part in "qkv"]
            new[f"{match[1]}in_proj_{match[2]}"] = torch.cat(parts)
        elif not re.search(r"[kv]_proj|output_projection", name):
            numbers = {"self_attn_layer_norm": 0, "encoder_attn_layer_norm": 1}
            numbers["final_layer_norm"] = 1 if name.startswith("encoder") else 2
            for norm, number in numbers.items():
                name = name.replace(norm, f"layer_norms.{number}")
            new[name] = weight
    held["model"] = new
    torch.save(held, tmp_path / "fairseq" / "checkpoint_best.pt")
    assert_same_logits(import_model(tmp_path / "fairseq").model, reference)


def test_a_final_norm_of_joeynmt(tmp_path):
    reference = write_joeynmt(tmp_path / "joey", pre=False, final_norm=True)
    assert_same_logits(import_model(tmp_path / "joey").model, reference)


def test_search_settings_of_joeynmt(tmp_path):
    write_joeynmt(tmp_path / "joey")
    settings = import_model(tmp_path / "joey").model.generation_config
    assert settings.length_penalty_type == "gnmt" and settings.length_penalty == 1.5
    assert settings.num_beams == 5 and settings.max_length == 31 and settings.decoder_start_token_id == 2


@pytest.mark.parametrize(
    "write, change, named",
    [
        (write_fairseq, {"layernorm_embedding": True}, "layernorm_embedding"),
        (write_fairseq, {"encoder_layerdrop": 0.2}, "encoder_layerdrop"),
        (write_fairseq, {"no_token_positional_embeddings": True}, "no_token_positional_embeddings"),
        (write_fairseq, {"decoder_attention_heads": 8}, "attention_heads"),
        (write_fairseq, {"adaptive_softmax_cutoff": "100,200"}, "adaptive_softmax_cutoff"),
        (write_fairseq, {"activation_fn": "linear"}, "activation_fn"),
        (write_fairseq, {"arch": "lightconv"}, "lightconv"),
        (write_joeynmt, {"alpha": 1.2}, "alpha"),
        (write_joeynmt, {"type": "recurrent"}, "recurrent"),
        (write_opennmt, {"max_relative_positions": 20}, "max_relative_positions=20"),
        (write_opennmt, {"max_relative_positions": -1}, "max_relative_positions=-1"),
        (write_opennmt, {"pos_ffn_activation_fn": "silu"}, "silu"),
        (write_opennmt, {"layer_norm": "rms"}, "rms_norm"),
        (write_opennmt, {"copy_attn": True}, "copy_attn"),
        (write_opennmt, {"self_attn_type": "average"}, "aan"),
        (write_opennmt, {"encoder_type": "brnn"}, "brnn"),
        (write_eole, {"embeddings": {"position_encoding_type": "Rotary"}}, "Rotary"),
        (write_eole, {"parallel_residual": True}, "parallel_residual"),
        (write_eole, {"stacks": {"decoder": {"heads": 2}}}, "heads=4 in the encoder but 2"),
        (write_eole, {"scalar": 0.5}, "layer_scalar"),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", ""),
)
def test_what_would_change_results_is_refused(tmp_path, write, change, named):
    write(tmp_path / "foreign", **change)
    with pytest.raises(ConversionError, match=named):
        import_model(tmp_path / "foreign")


@pytest.mark.parametrize("write", [write_fairseq, write_joeynmt, write_opennmt])
def test_a_checkpoint_with_other_objects_is_refused(tmp_path, write):
    write(tmp_path / "foreign")
    file = next(path for path in (tmp_path / "foreign").iterdir() if path.suffix in (".pt", ".ckpt"))
    held = torch.load(file, weights_only=False)
    held["scheduler"] = torch.nn.Linear(1, 1)
    torch.save(held, file)
    with pytest.raises(ConversionError, match=rf"{file.name} holds objects of .*Linear"):
        import_model(tmp_path / "foreign")


def test_two_checkpoints_are_a_question(tmp_path):
    write_opennmt(tmp_path / "foreign")
    (tmp_path / "foreign" / "model_2.pt").write_bytes((tmp_path / "foreign" / "model.pt").read_bytes())
    with pytest.raises(ConversionError, match="give the path of one of them"):
        import_model(tmp_path / "foreign")
    assert import_model(tmp_path / "foreign" / "model_2.pt").report.format == "opennmt"


def test_meters_of_old_fairseq_checkpoints_are_not_imported(tmp_path, monkeypatch):
    reference = write_fairseq(tmp_path / "fairseq")
    file = tmp_path / "fairseq" / "checkpoint_best.pt"
    held = torch.load(file, weights_only=False)
    module = types.ModuleType("fairseq.meters")
    module.AverageMeter = type("AverageMeter", (), {"__module__": "fairseq.meters"})
    meter = module.AverageMeter()
    meter.avg = 3.0
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "fairseq", types.ModuleType("fairseq"))
        patch.setitem(sys.modules, "fairseq.meters", module)
        torch.save(held | {"extra_state": {"train_meters": {"train_loss": meter}}}, file)
    assert_same_logits(import_model(tmp_path / "fairseq").model, reference)


@pytest.mark.parametrize(
    "write, file, content, named",
    [
        (write_joeynmt, "config.yaml", None, "has no config.yaml, which belongs to best.ckpt"),
        (write_joeynmt, "config.yaml", "{nonsense: [", "config.yaml is not valid YAML"),
        (write_joeynmt, "config.yaml", "", "config.yaml holds no settings, but NoneType"),
        (write_joeynmt, "config.yaml", "a: 1", "lacks the entry 'model'"),
        (write_eole, "config.json", None, "needs its config.json too"),
        (write_eole, "vocab.json", None, "has no vocab.json, which belongs to eole"),
        (write_eole, "vocab.json", "[]", "vocab.json holds no settings, but list"),
        (write_eole, "vocab.json", "{}", "lacks the entry 'src'"),
        (write_eole, "model.00.safetensors", None, "has no weights, such as model.00.safetensors"),
        (write_eole, "model.00.safetensors", "nonsense", "model.00.safetensors is no file of safetensors"),
    ],
)
def test_a_file_that_is_missing_or_broken_is_named(tmp_path, write, file, content, named):
    write(tmp_path / "theirs")
    (tmp_path / "theirs" / file).unlink()
    if content is not None:
        (tmp_path / "theirs" / file).write_text(content)
    with pytest.raises(ConversionError, match=named):
        import_model(tmp_path / "theirs", check=False)


def test_weights_of_opennmt_that_are_not_beside_their_settings_are_named(tmp_path):
    write_opennmt(tmp_path / "theirs", split=True)
    (tmp_path / "theirs" / "model.safetensors").unlink()
    with pytest.raises(ConversionError, match="model.safetensors is not beside it"):
        import_model(tmp_path / "theirs", check=False)


def test_the_dictionary_that_is_missing_is_named(tmp_path):
    write_fairseq(tmp_path / "theirs")
    (tmp_path / "theirs" / "dict.en.txt").write_text("a 1\n")
    notes = import_model(tmp_path / "theirs", check=False).report.notes
    assert any(note.endswith("lacks dict.es.txt") for note in notes)


@pytest.mark.parametrize(
    "held, named",
    [
        ({0: torch.ones(2)}, "is of no known format"),
        (torch.ones(2), "is of no known format"),
        ({"state_dict": [1, 2]}, "is of no known format; it holds state_dict"),
        ({"model": {"a": torch.ones(1)}, "args": {"lr": 1}}, "model without a name"),
    ],
    ids=["numbers for names", "a tensor", "a list of weights", "entries for arguments"],
)
def test_a_checkpoint_of_another_form_is_named(tmp_path, held, named):
    torch.save(held, tmp_path / "model.pt")
    with pytest.raises(ConversionError, match=named):
        import_model(tmp_path / "model.pt")
