"""State dicts of modules around `torch.nn.Transformer`, whose other parts have names of the user's choice."""

import math

import pytest
import torch
from imported_models import assert_same_first_loss, assert_same_logits, assert_same_search
from torch import nn
from transformers import AutoModelForSeq2SeqLM

from vanilla_transformer.embeddings import sinusoids
from vanilla_transformer.interop import ConversionError, import_model
from vanilla_transformer.interop.__main__ import main

WIDTH, WORDS, TARGET_WORDS = 32, 61, 47


class Tutorial(nn.Module):
    """The translator of PyTorch's tutorial, with its names."""

    def __init__(self, norm_first=False, activation="relu", scale=True, learned=False, tied=False, bias=True):
        super().__init__()
        self.scale = math.sqrt(WIDTH) if scale else 1.0
        self.transformer = nn.Transformer(
            WIDTH,
            4,
            2,
            3,
            64,
            batch_first=True,
            norm_first=norm_first,
            activation=activation,
            bias=bias,
        )
        self.generator = nn.Linear(WIDTH, WORDS if tied else TARGET_WORDS, bias=not tied)
        self.src_tok_emb = nn.Embedding(WORDS, WIDTH)
        self.tgt_tok_emb = nn.Embedding(WORDS if tied else TARGET_WORDS, WIDTH)
        self.pos_embedding = nn.Parameter(sinusoids(torch.arange(40), WIDTH)[None], requires_grad=learned)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name != "pos_embedding" or learned:
                    parameter.add_(torch.randn_like(parameter) * 0.2)
            if tied:
                self.tgt_tok_emb.weight = self.generator.weight = self.src_tok_emb.weight

    def forward(self, input_ids, attention_mask, decoder_input_ids):
        def embed(table, ids):
            return table(ids) * self.scale + self.pos_embedding[:, : ids.shape[1]]

        length, padding = decoder_input_ids.shape[1], attention_mask == 0
        states = self.transformer(
            embed(self.src_tok_emb, input_ids),
            embed(self.tgt_tok_emb, decoder_input_ids),
            tgt_mask=nn.Transformer.generate_square_subsequent_mask(length),
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
        )
        return self.generator(states)


VARIANTS = {
    "post": {},
    "pre": {"norm_first": True},
    "gelu, no bias": {"activation": "gelu", "bias": False},
    "unscaled, tied": {"scale": False, "tied": True},
    "learned positions": {"learned": True},
}


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request, tmp_path_factory):
    settings = VARIANTS[request.param]
    torch.manual_seed(0)
    original, folder = Tutorial(**settings).eval(), tmp_path_factory.mktemp("torch")
    torch.save(original.state_dict(), folder / "model.pt")
    imported = import_model(
        folder / "model.pt",
        num_attention_heads=4,
        norm_position="pre" if settings.get("norm_first") else "post",
        activation=settings.get("activation", "relu"),
        scale_embedding=settings.get("scale", True),
    )
    assert imported.report.passed and imported.report.format == "torch"
    return imported.model, original


def test_logits(pair):
    assert_same_logits(*pair)


def test_greedy(pair):
    assert_same_search(*pair, num_beams=1)


def test_beam_4(pair):
    assert_same_search(*pair, num_beams=4)


def test_first_loss(pair):
    assert_same_first_loss(*pair)


def test_stacks_without_a_last_norm(tmp_path):
    original = Tutorial().eval()
    original.transformer.encoder.norm = original.transformer.decoder.norm = None
    torch.save({"state_dict": original.state_dict()}, tmp_path / "model.pt")
    model = import_model(tmp_path / "model.pt", num_attention_heads=4).model
    assert model.config.final_norm is None
    assert_same_logits(model, original)


def test_names_can_be_given(tmp_path):
    original = Tutorial().eval()
    names = {
        "src_tok_emb.weight": "a.weight",
        "tgt_tok_emb.weight": "b.weight",
        "generator.weight": "c.weight",
    }
    state = {names.get(name, name): value for name, value in original.state_dict().items()}
    state["c.bias"] = state.pop("generator.bias")
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(ConversionError, match="give source_embedding= one of a.weight, b.weight, c.weight"):
        import_model(tmp_path / "model.pt", num_attention_heads=4)
    given = {"source_embedding": "a.weight", "target_embedding": "b.weight", "output": "c.weight"}
    assert_same_logits(import_model(tmp_path / "model.pt", num_attention_heads=4, **given).model, original)


def test_what_the_file_does_not_say_is_asked_for(tmp_path):
    torch.save(Tutorial().state_dict(), tmp_path / "model.pt")
    with pytest.raises(ConversionError, match="give num_attention_heads"):
        import_model(tmp_path / "model.pt")
    with pytest.raises(ConversionError, match="no setting nhead"):
        import_model(tmp_path / "model.pt", num_attention_heads=4, nhead=4)
    model = import_model(tmp_path / "model.pt", num_attention_heads=4, pad_token_id=3, eos_token_id=5).model
    assert (model.config.pad_token_id, model.config.eos_token_id) == (3, 5)


def test_parts_of_another_architecture_are_refused(tmp_path):
    state = Tutorial().state_dict() | {"adapter.down": torch.zeros(3)}
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(ConversionError, match="adapter.down"):
        import_model(tmp_path / "model.pt", num_attention_heads=4)


class Harmful:
    """Its pickle would write a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_file_with_code_is_refused_and_not_run(tmp_path):
    state = Tutorial().state_dict() | {"extra": Harmful(tmp_path / "proof")}
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(ConversionError, match=r"model\.pt holds objects of .*open"):
        import_model(tmp_path / "model.pt", num_attention_heads=4)
    assert not (tmp_path / "proof").exists()


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(ConversionError, match=r"model\.pt"):
        import_model(tmp_path / "model.pt")
    (tmp_path / "text.pt").write_text("hi\n")
    with pytest.raises(ConversionError, match=r"text\.pt is no checkpoint"):
        import_model(tmp_path / "text.pt")
    (tmp_path / "config.json").write_text('{"model_type": \n')
    with pytest.raises(ConversionError, match=r"config\.json is not valid JSON: .*line 2"):
        import_model(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ConversionError, match=r"config\.json holds no settings, but list"):
        import_model(tmp_path)
    with pytest.raises(ConversionError, match="there is no folder .*nowhere"):
        import_model(tmp_path / "nowhere")
    with pytest.raises(ConversionError, match="use 'auto' or one of"):
        import_model(tmp_path / "model.pt", format="sockeye")


def test_the_command_saves_and_reports(tmp_path, capsys):
    original = Tutorial().eval()
    torch.save(original.state_dict(), tmp_path / "model.pt")
    words = [str(tmp_path / "model.pt"), str(tmp_path / "ours"), "--check", "--set", "num_attention_heads=4"]
    main(words)
    printed = capsys.readouterr().out
    assert "ok     cached decoding equals uncached" in printed and f"saved in {tmp_path}" in printed
    assert_same_logits(AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "ours"), original)
    with pytest.raises(SystemExit, match="ours exists: name a new folder"):  # nothing is overwritten
        main(words)
    words[1] = str(tmp_path / "other")
    with pytest.raises(SystemExit, match="error: .*give num_attention_heads"):
        main(words[:2])
    with pytest.raises(SystemExit, match="has no setting"):
        main([*words, "--set", "colour=blue", "--format", "opennmt"])
