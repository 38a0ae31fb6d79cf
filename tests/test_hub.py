"""Pushing to the Hub and loading from it, against a small Hub of our own on this machine."""

import json
import re
import threading

import clean_process
import launch
import pytest
import yaml
from loopback_hub import Hub

from vanilla_transformer.model_card import PICTURES

REPO = "someone/tiny"

PUSH = """
import json, sys
import torch
from huggingface_hub import upload_file
from transformers import pipeline
from vanilla_transformer import (
    VanillaTransformerConfig, VanillaTransformerForConditionalGeneration, VanillaTransformerTokenizer
)
from vanilla_transformer.model_card import write_model_card

repo, folder = sys.argv[1:]
texts = ["A dog runs.", "Two dogs run over the field."]
tokenizer = VanillaTransformerTokenizer.train([texts], vocab_size=280, min_frequency=1, show_progress=False)
torch.manual_seed(0)
config = VanillaTransformerConfig.from_preset("tiny", vocab_size=len(tokenizer), hidden_size=32)
model = VanillaTransformerForConditionalGeneration(config).eval()
made_here = pipeline("translation", model=model, tokenizer=tokenizer, device="cpu")

model.push_to_hub(repo)
tokenizer.push_to_hub(repo)
model.save_pretrained(folder)
card = write_model_card(folder, task="translation", data="two dogs", results={}, settings={}, model=repo)
upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=repo)
model.push_to_hub(repo, tags=["pushed-again"])

by_tag = pipeline(model=repo, device="cpu")
print("\\n" + json.dumps({
    "made here": made_here(texts[0], max_new_tokens=8),
    "pipeline by the card's tag": type(by_tag).__module__,
    "loaded": by_tag(texts[0], max_new_tokens=8),
}))
"""

LOAD = """
import json, sys
from transformers import pipeline

pipe = pipeline("translation", model=sys.argv[1], trust_remote_code=True, device="cpu")
print("\\n" + json.dumps(pipe("A dog runs.", max_new_tokens=8)))
"""


@pytest.fixture(scope="module")
def hub():
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever)
    thread.start()
    yield hub
    hub.shutdown()
    hub.server_close()
    thread.join()


@pytest.fixture(scope="module")
def online(hub):
    return {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_none"}


@pytest.fixture(scope="module")
def pushed(online, tmp_path_factory):
    """What the process that made and pushed the model reports."""
    folder = tmp_path_factory.mktemp("pushing")
    return clean_process.run(PUSH, folder, REPO, folder, with_package=True, **online)


def test_a_pushed_model_is_complete(pushed, hub):
    files = hub.files(REPO)
    config = json.loads(files["config.json"])
    modules = {reference.split(".")[0] for reference in config["auto_map"].values()}
    modules |= {entry["impl"].split(".")[0] for entry in config["custom_pipelines"].values()}
    modules.add(json.loads(files["tokenizer_config.json"])["auto_map"]["AutoTokenizer"][0].split(".")[0])
    for name in modules:
        source = files[f"{name}.py"].decode()
        for needed in re.findall(r"^\s*from \.(\w+) import", source, flags=re.MULTILINE):
            assert f"{needed}.py" in files, f"{name}.py imports {needed}"
    assert {"AutoModel", "AutoModelForSeq2SeqLM", "AutoModelForMaskedLM"} <= set(config["auto_map"])
    assert {"model.safetensors", "generation_config.json", "tokenizer.json", "README.md"} <= set(files)
    assert hub.blobs, "the weights went the way of large files"


def test_pushing_again_keeps_the_card(pushed, hub):
    text = hub.files(REPO)["README.md"].decode()
    metadata = yaml.safe_load(text.split("---")[1])
    assert metadata["pipeline_tag"] == "translation"
    assert {"vanilla-transformer", "pushed-again"} <= set(metadata["tags"])
    assert "two dogs" in text


def test_it_loads_from_the_hub_where_the_package_is_imported(pushed):
    assert pushed["pipeline by the card's tag"] == "vanilla_transformer.pipelines"
    assert pushed["loaded"] == pushed["made here"]


def test_it_loads_from_the_hub_where_the_package_is_absent(pushed, online, tmp_path):
    assert clean_process.run(LOAD, tmp_path, REPO, **online) == pushed["made here"]


def test_a_recipe_publishes_the_model_and_nothing_private(hub, online, tmp_path, monkeypatch):
    """While it trains and at its end; the repository is private, and the token is in no file."""
    token, verse = "hf_" + "secret" * 5, "Nobody else may read the sentence number"
    for language in ("en", "es"):
        lines = "".join(f"{verse} {number}\n" for number in range(12))
        (tmp_path / f"private.{language}").write_text(lines)
    pair = [tmp_path / "private.en", tmp_path / "private.es"]
    for name, value in online.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HF_TOKEN")
    finished = launch.launch(
        "recipes/seq2seq.py",
        *("--train_file", *pair, "--test_file", *pair, "--source_lang", "en", "--target_lang", "es"),
        *("--output_dir", tmp_path / "run", "--vocab_size", 270, "--model.hidden_size", 16),
        *("--model.intermediate_size", 16, "--model.num_attention_heads", 2, "--model.encoder_layers", 1),
        *("--model.decoder_layers", 1, "--max_steps", 2, "--save_steps", 1, "--max_extra_tokens", 2),
        *("--push_to_hub", "true", "--hub_model_id", "someone/recipe", f"--hub_token={token}"),
        *("--hub_always_push", "true", "--save_total_limit", 1, "--use_cpu", "true"),
    )
    assert finished.returncode == 0, finished.stderr
    assert hub.private["someone/recipe"]
    pushes = hub.commits["someone/recipe"]
    assert len(pushes) >= 4  # an empty one, after each update, at the end
    for files in pushes[1:]:
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(files)
        kinds = {name.rpartition(".")[2] for name in files if name != ".gitattributes"}
        assert kinds <= {"json", "safetensors", "py", "md", "png"}, files
        assert {name for name in files if name.endswith(".png")} <= set(PICTURES)  # none shows a text
        assert "translations.jsonl" not in files and "trainer_state.json" not in files
        for name, content in files.items():
            assert verse.encode() not in content and str(tmp_path).encode() not in content, name
    assert "README.md" in pushes[-1]
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert any(path.name == "training_args.bin" for path in written)
    leaks = [path for path in written if token.encode() in path.read_bytes()]
    assert not leaks and token not in finished.stdout + finished.stderr
