"""The search as a `custom_generate` folder: for models of transformers, and without this package."""

import json
import threading

import clean_process
import pytest
import torch
from loopback_hub import Hub
from plain_beam_search import plain_search
from tiny_marian import write_marian
from tiny_translators import TEXTS, marian
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    M2M100Config,
    M2M100ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from vanilla_transformer import (
    ToolkitTokenizer,
    VanillaTransformerConfig,
    VanillaTransformerForConditionalGeneration,
    hub_generate,
    write_custom_generate,
)
from vanilla_transformer.interop.marian import import_marian
from vanilla_transformer.terms import Terms

SIZES = dict(
    vocab_size=60,
    d_model=16,
    encoder_layers=1,
    decoder_layers=2,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=32,
    decoder_ffn_dim=32,
    max_position_embeddings=64,
    pad_token_id=1,
    eos_token_id=2,
    bos_token_id=0,
    decoder_start_token_id=2,
)
FAMILIES = ["bart", "m2m100", "marian", "t5"]
families = pytest.mark.parametrize("family", FAMILIES)
DIVERSE = {"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 0.7, "num_return_sequences": 6}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(1)
    t5 = T5Config(
        vocab_size=60, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    models = {
        "bart": BartForConditionalGeneration(BartConfig(**SIZES, forced_eos_token_id=2)),
        "m2m100": M2M100ForConditionalGeneration(M2M100Config(**SIZES)),
        "marian": write_marian(root / "marian", with_tokenizer=False),
        "t5": T5ForConditionalGeneration(t5),
    }
    for name, model in models.items():
        if name != "marian":
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.3)
        model.eval().save_pretrained(root / name)
    return models


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paper-search")
    write_custom_generate(folder)
    return folder


def batch(model):
    torch.manual_seed(3)
    ids, lengths = torch.randint(5, 55, (4, 7)), torch.tensor([7, 3, 5, 2])
    mask = (torch.arange(7) < lengths[:, None]).long()
    return {"input_ids": ids.masked_fill(mask == 0, model.config.pad_token_id), "attention_mask": mask}


def custom(model, folder, **settings):
    inputs = settings.pop("inputs", None) or batch(model)
    settings = {"max_new_tokens": 9, **settings}
    return model.generate(**inputs, **settings, custom_generate=str(folder), trust_remote_code=True)


@families
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_beams": 3, "length_penalty": 2.0, "early_stopping": "never", "num_return_sequences": 3},
        {"early_stopping": True, "no_repeat_ngram_size": 2},
        {"min_new_tokens": 4, "length_penalty": 0.0},
    ],
    ids=lambda settings: ", ".join(settings) or "default",
)
def test_with_the_penalty_of_transformers_it_is_their_search(models, folder, family, settings):
    model, settings = models[family], {"num_beams": 4, **settings}
    ours = custom(model, folder, length_penalty_type=None, max_extra_tokens=None, **settings)
    assert torch.equal(ours, model.generate(**batch(model), max_new_tokens=9, **settings))


@families
def test_the_papers_search_is_a_plain_one(models, folder, family):
    model = models[family]
    whole, settings = batch(model), model.generation_config
    output = custom(
        model,
        folder,
        num_return_sequences=3,
        num_beams=3,
        max_extra_tokens=2,
        forced_eos_token_id=None,
        bad_words_ids=None,
        return_dict_in_generate=True,
    )
    special = dict(
        start=settings.decoder_start_token_id, pad=settings.pad_token_id, end=settings.eos_token_id
    )
    sequences, scores = (part.unflatten(0, (4, 3)) for part in (output.sequences, output.sequences_scores))
    for row, length in enumerate(whole["attention_mask"].sum(1).tolist()):
        single = whole["input_ids"][row : row + 1, :length]

        @torch.no_grad()
        def predict(tokens, single=single):
            logits = model(input_ids=single.expand(len(tokens), -1), decoder_input_ids=tokens).logits[:, -1]
            return logits.log_softmax(-1), torch.ones(len(tokens), 1)

        expected = plain_search(predict, 3, min(9, length + 2), 3, alpha=0.6, **special)
        torch.testing.assert_close(scores[row], torch.tensor([score for score, _ in expected]))
        for tokens, (_, output_tokens) in zip(sequences[row].tolist(), expected):
            assert tuple(tokens[1 : len(output_tokens) + 1]) == output_tokens


def test_an_imported_marian_finds_the_same(models, folder, tmp_path):
    original = models["marian"]
    original.save_pretrained(tmp_path)
    model = import_marian(tmp_path).model.eval()
    paper = {"length_penalty_type": "gnmt", "length_penalty": 0.6, "max_extra_tokens": 4}
    for settings in ({}, {"num_beams": 6, "num_return_sequences": 6}, DIVERSE):
        settings = {"num_beams": 4, **settings, **paper}
        ours = model.generate(**batch(original), max_new_tokens=9, **settings)
        assert torch.equal(custom(original, folder, **settings), ours)
    terms = Terms([[[7, 8]], [], [[9], [5]], [[11]]])
    settings = {"num_beams": 5, "terms": terms, **paper}
    assert torch.equal(
        custom(original, folder, **settings), model.generate(**batch(original), max_new_tokens=9, **settings)
    )


@families
def test_limits_follow_the_input_and_the_model(models, folder, family):
    model = models[family]
    output = custom(
        model, folder, max_new_tokens=None, max_extra_tokens=1, min_new_tokens=7, bad_words_ids=None
    )
    assert output.shape[1] <= 1 + 7 + 1
    lengths = (output[:, 1:] != model.generation_config.pad_token_id).sum(1)
    assert lengths[0] in (7, 8) and lengths[1:].tolist() == [4, 6, 3]  # the inputs have 7, 3, 5 and 2


@pytest.mark.parametrize("terms", [{"dog": "fence", "fox": "to German"}, [{"dog": "fence"}, {}, {}, {}]])
def test_terms_are_found_in_the_texts(folder, terms):
    model, tokenizer = marian()
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    outputs = custom(model, folder, inputs=inputs, terms=terms, tokenizer=tokenizer)
    for index, (text, ids) in enumerate(zip(TEXTS, outputs)):
        of_text = terms if isinstance(terms, dict) else terms[index]
        output = tokenizer.decode(ids, skip_special_tokens=True)
        assert all(target in output for source, target in of_text.items() if source in text)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_beams": 1}, "set num_beams to 2 or more"),
        ({"do_sample": True}, "do_sample=False"),
        ({"length_penalty_type": "wu"}, "length_penalty_type='wu' is unknown"),
        ({"terms": {"bank": "Ufer"}}, "terms needs input_ids and the tokenizer"),
        ({"num_beams": 4, "num_beam_groups": 3, "diversity_penalty": 1.0}, "must be a multiple of"),
        ({"streamer": object()}, "takes no streamer"),
        ({"coverage_penalty": 0.2}, "coverage_penalty"),
    ],
)
def test_what_it_cannot_do_is_one_clear_error(models, folder, settings, message):
    with pytest.raises(ValueError, match=message):
        custom(models["t5"], folder, **settings)


def test_it_needs_trust(models, folder):
    with pytest.raises(ValueError, match="trust_remote_code"):
        models["t5"].generate(**batch(models["t5"]), custom_generate=str(folder))


IN_A_CLEAN_PROCESS = """
import json
import huggingface_hub, torch, transformers

name, folder, root, families = *sys.argv[1:4], sys.argv[4].split()
huggingface_hub.create_repo(name)
huggingface_hub.upload_folder(folder_path=folder, repo_id=name)
common = {"trust_remote_code": True, "max_new_tokens": 9}
diverse = {"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 0.7, "num_return_sequences": 6}
report = {}
for family in families:
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(f"{root}/{family}").eval()
    batch = torch.load(f"{root}/{family}.pt")
    report[family] = [
        model.generate(**batch, custom_generate=where, **common, **more).tolist()
        for where in (folder, name)
        for more in ({}, diverse)
    ]
assert "vanilla_transformer" not in sys.modules
print("\\n" + json.dumps(report))
"""


@pytest.fixture
def hub():
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever)
    thread.start()
    yield hub
    hub.shutdown()
    hub.server_close()
    thread.join()


def test_it_works_where_this_package_is_not_installed(models, folder, hub, tmp_path):
    """From the folder, and from a repository of the Hub."""
    expected = {}
    for family, model in models.items():
        model.save_pretrained(tmp_path / family)
        torch.save(batch(model), tmp_path / f"{family}.pt")
        again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / family).eval()
        expected[family] = 2 * [custom(again, folder, **more).tolist() for more in ({}, DIVERSE)]
    found = clean_process.run(
        IN_A_CLEAN_PROCESS,
        tmp_path,
        *("someone/paper-search", folder, tmp_path, " ".join(FAMILIES)),
        HF_ENDPOINT=hub.url,
        HF_HUB_OFFLINE="0",
        HF_HUB_DISABLE_XET="1",
        HF_TOKEN="hf_none",
    )
    assert found == expected
    assert "custom_generate/generate.py" in hub.files("someone/paper-search")


def test_the_readme_has_the_tag_that_the_hub_needs(folder):
    assert "\n- custom_generate\n" in (folder / "README.md").read_text()
    names = {path.name for path in (folder / "custom_generate").iterdir()}
    assert "generate.py" in names and not names & {"modeling_vanilla_transformer.py", "decoding.py"}


def test_terms_are_found_in_a_source_with_its_own_vocabulary(tmp_path):
    for side, words in {"source": "the dog runs", "target": "der Hund rennt"}.items():
        known = ["<unk>", "<pad>", "</s>", *words.split()]
        (tmp_path / side).write_text(json.dumps({word: id for id, word in enumerate(known)}))
    tokenizer = ToolkitTokenizer(str(tmp_path / "source"), str(tmp_path / "target"))
    ids = {"bos_token_id": None, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    sizes = {"vocab_size": 6, "target_vocab_size": 7, "encoder_layers": 1, "decoder_layers": 1}
    model = VanillaTransformerForConditionalGeneration(
        VanillaTransformerConfig.from_preset("tiny", **sizes, **ids)
    ).eval()
    inputs = tokenizer("the dog runs", return_tensors="pt")
    outputs = hub_generate.generate(
        model, **inputs, terms={"dog": "Hund"}, tokenizer=tokenizer, max_new_tokens=4
    )
    assert "Hund" in tokenizer.decode(outputs[0])
