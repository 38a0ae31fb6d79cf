"""The explainer: its JavaScript gives PyTorch's numbers, and its page Python's translations."""

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_models import random_model
from tiny_translators import marian, vanilla

from vanilla_transformer import VanillaTransformerTokenizer
from vanilla_transformer.beam_search import BeamSearch
from vanilla_transformer.corpora import load_corpus
from vanilla_transformer.generation import paper_generation_config

PAGE = Path(__file__).parents[1] / "docs" / "explainer"
SENTENCES = [
    "The woman gave bread to her son.",
    "Yahweh spoke to Moses, saying,",
    "",
    "Ünknown 漢字 😀 words!",
]
TEXTS = [
    *(
        "",
        " ",
        "  two  spaces  ",
        "don’t stop",
        "it's 1,234.5%",
        "tab\tline\n\nend\r\n",
        "<pad> </s> <s>",
        "ΣΑΣ İstanbul",
    ),
    *(
        "e\u0301 combining",
        "नमस्ते दुनिया",
        "שלום עולם",
        "مرحبا بالعالم",
        "👩‍👩‍👧 🏳️‍🌈",
        "a\u00a0b\u2003c\u3000d",
        "\ufeffx\x85y\x1cz",
    ),
    *(
        "\ud800 half",
        "¿Qué? «¡No!»",
        "x" * 300,
        "日本語のテキスト",
        "ﬁ ﬀ Ⅷ ½ ²",
        "\u200bzero\u200dwidth",
        "\x00\x01\x7f",
    ),
]

spec = importlib.util.spec_from_file_location("explainer_build", PAGE / "build.py")
explainer = importlib.util.module_from_spec(spec)
spec.loader.exec_module(explainer)

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


def run_page_model(data: Path, **request) -> list[dict]:
    command = ["node", str(PAGE / "run.js"), str(data)]
    process = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True)
    assert not process.returncode, process.stderr
    return json.loads(process.stdout)


def save_tiny(folder: Path, language_tags=(), **settings) -> Path:
    """A model whose parameters are all random, with its tokenizer."""
    _, tokenizer = vanilla(language_tags)
    sizes = dict(
        hidden_size=16, intermediate_size=24, num_attention_heads=2, encoder_layers=2, decoder_layers=1
    )
    model = random_model(vocab_size=len(tokenizer), **{**sizes, **settings})
    model.generation_config = paper_generation_config(model.config)
    model.generation_config.max_extra_tokens = 9
    if tokenizer.languages:
        tokenizer.target_language = tokenizer.languages[0]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


def translate(model, tokenizer, sentence: str) -> str:
    output = model.generate(**tokenizer([sentence], return_tensors="pt"))[0]
    return tokenizer.decode(output, skip_special_tokens=True)


def assert_close(found, expected):
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float32), expected, atol=1e-4, rtol=0)


def python_search(model, batch) -> BeamSearch:
    """The search of `generate` for one sentence, with its finished hypotheses."""
    settings = model.generation_config
    limit = min(settings.max_length - 1, batch.input_ids.shape[1] + settings.max_extra_tokens)
    memory = model.get_encoder()(**batch)
    start, end = torch.tensor([[settings.decoder_start_token_id]]), torch.tensor([settings.eos_token_id])
    search = BeamSearch(
        start,
        torch.tensor([limit]),
        beams=settings.num_beams,
        alpha=settings.length_penalty,
        end=end,
        pad=settings.pad_token_id,
    )
    while not search.done:
        live = search.tokens[0]
        encoded = (memory.last_hidden_state.expand(len(live), -1, -1),)
        logits = model(encoder_outputs=encoded, decoder_input_ids=live, use_cache=False).logits
        search.step(logits[:, -1].log_softmax(-1))
    return search


@torch.no_grad()
def check_numbers(data: Path, sentences: list[str]):
    """Compares pieces, states, attentions, logits and the beam with PyTorch's."""
    model, tokenizer = explainer.load(data)
    for sentence, found in zip(sentences, run_page_model(data, translate=sentences)):
        batch = tokenizer([sentence], return_tensors="pt")
        assert found["ids"] == batch.input_ids[0].tolist()

        search = python_search(model, batch)
        assert len(found["finished"]) == int((search.ranks[0] > float("-inf")).sum())
        assert_close(
            [hypothesis["score"] for hypothesis in found["finished"]],
            search.ranks[0, : len(found["finished"])],
        )
        for hypothesis, expected in zip(found["finished"], search.finished[0]):
            assert hypothesis["ids"] == expected[1 : 1 + len(hypothesis["ids"])].tolist()
            assert hypothesis["text"] == tokenizer.decode(expected, skip_special_tokens=True)
        assert found["finished"][0]["text"] == tokenizer.decode(
            model.generate(**batch)[0], skip_special_tokens=True
        )

        ids = torch.tensor([[model.config.decoder_start_token_id, *found["finished"][0]["ids"][:-1]]])
        outputs = model(**batch, decoder_input_ids=ids, output_attentions=True, output_hidden_states=True)
        assert_close(found["logits"], outputs.logits[0])
        for stack, name, last in (
            ("encoder", "encoder_", outputs.encoder_last_hidden_state),
            ("decoder", "decoder_", model.model(**batch, decoder_input_ids=ids).last_hidden_state),
        ):
            states = outputs[f"{name}hidden_states"]
            assert_close(found[stack]["embedded"], states[0][0])
            for layer, state in zip(found[stack]["layers"][:-1], states[1:-1], strict=True):
                assert_close(layer, state[0])
            assert_close(found[stack]["output"], last[0])
            check_weights(found[stack]["self"], outputs[f"{name}attentions"])
        check_weights(found["decoder"]["cross"], outputs.cross_attentions)


def check_weights(found: list, expected: tuple[torch.Tensor, ...]):
    """The weights [layer][head][query][key], of which masked keys are missing, and equal to 0 in PyTorch."""
    for layer, weights in zip(found, expected, strict=True):
        keys = weights.shape[-1]
        for head, rows in zip(layer, weights[0], strict=True):
            assert_close([row + [0.0] * (keys - len(row)) for row in head], rows)


@needs_node
def test_the_quickstart_gives_pytorchs_numbers():
    check_numbers(PAGE / "data.js", SENTENCES)


@needs_node
@pytest.mark.parametrize(
    "settings",
    [
        {"norm_position": "pre", "head_dim": 4, "value_dim": 12},
        {"position_embedding_type": "learned", "max_position_embeddings": 64, "output_bias": True},
        {"tie_word_embeddings": False, "final_norm": True, "language_tags": ["es", "de"]},
    ],
    ids=lambda settings: ",".join(settings),
)
def test_every_kind_of_model_gives_pytorchs_numbers(tmp_path, settings):
    data = explainer.build(str(save_tiny(tmp_path / "model", **settings)), tmp_path / "page")
    check_numbers(data, ["the quick brown dog", "a lazy 7 fox!"])


@needs_node
@pytest.mark.filterwarnings("ignore:Using the model-agnostic default")
@pytest.mark.parametrize("settings", [{}, {"max_length": 9}, {"max_extra_tokens": 3}], ids=str)
def test_greedy_search_is_that_of_generate(tmp_path, tiny_folder, settings):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    (folder / "generation_config.json").write_text(
        json.dumps({"decoder_start_token_id": 0, "pad_token_id": 1, "eos_token_id": 2} | settings)
    )
    data = explainer.build(str(folder), tmp_path / "page")
    (found,) = run_page_model(data, translate=["a lazy dog"])
    assert found["finished"][0]["text"] == translate(*explainer.load(data), "a lazy dog")


@needs_node
def test_pieces_are_those_of_the_tokenizer():
    _, tokenizer = explainer.load(PAGE / "data.js")
    verses = load_corpus("bible_en_es")["test"]
    characters = [
        f"a{chr(code)}b {chr(code)}1" for code in range(0, 0x32000, 61) if not 0xD800 <= code < 0xE000
    ]
    texts = [*TEXTS, *verses["en"][:150], *verses["es"][:150], *characters]
    for text, found in zip(texts, run_page_model(PAGE / "data.js", encode=texts), strict=True):
        assert found["ids"] == tokenizer(text).input_ids, text
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        assert found["decoded"] == tokenizer.decode(found["ids"], skip_special_tokens=True) == whole


@needs_node
def test_lowercase_is_that_of_the_tokenizer(tmp_path):
    folder, texts = save_tiny(tmp_path / "model"), ["The QUICK Fox", "ΣΑΣ ΑΣ", "İSTANBUL", "ǅ ẞ"]
    tokenizer = VanillaTransformerTokenizer.train(
        [texts], vocab_size=262, lowercase=True, show_progress=False
    )
    tokenizer.save_pretrained(folder)
    data = explainer.build(str(folder), tmp_path / "page")
    assert [found["ids"] for found in run_page_model(data, encode=texts)] == tokenizer(texts).input_ids


def change_json(path: Path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


REFUSED = {
    "activation='gelu'": lambda folder: change_json(folder / "config.json", activation="gelu"),
    "norm_type='batch'": lambda folder: change_json(folder / "config.json", norm_type="batch"),
    "both stacks": lambda folder: change_json(folder / "config.json", encoder_layers=0),
    "type 'marian'": lambda folder: marian()[0].save_pretrained(folder),
    "pre_tokenizer in tokenizer.json": lambda folder: change_json(
        folder / "tokenizer.json", pre_tokenizer=None
    ),
    "has coverage_penalty=0.2": lambda folder: change_json(
        folder / "generation_config.json", coverage_penalty=0.2
    ),
    "as transformers does": lambda folder: change_json(
        folder / "generation_config.json", length_penalty_type=None
    ),
    "split_special_tokens": lambda folder: change_json(
        folder / "tokenizer_config.json", split_special_tokens=False
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_the_page_cannot_show_is_an_error(tmp_path, tiny_folder, message):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    REFUSED[message](folder)
    with pytest.raises(ValueError, match=message) as error:
        explainer.build(str(folder), tmp_path / "page")
    assert str(folder) in str(error.value)
    assert not (tmp_path / "page").exists()


def test_large_models_and_large_weights_are_errors(tmp_path, tiny_folder, monkeypatch):
    model, _ = vanilla()
    model.model.encoder.layers[0].feed_forward.fc1.bias.data[3] = 1e6
    with pytest.raises(ValueError, match=r"encoder\.layers\.0\.feed_forward\.fc1\.bias .* 65,504"):
        explainer.half_precision(model)
    monkeypatch.setattr(explainer, "MOST_PARAMETERS", 1000)
    with pytest.raises(ValueError, match="at most 1,000"):
        explainer.build(str(tiny_folder), tmp_path)


def test_the_command_names_a_folder_without_a_model(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["build.py", str(tmp_path / "none"), "--output", str(tmp_path / "page")])
    with pytest.raises(SystemExit, match="error: .*none"):
        explainer.main()


class Browser:
    """Headless Chromium with one tab, driven over a pipe (Chrome DevTools Protocol)."""

    FLAGS = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --remote-debugging-pipe"
    )

    def __init__(self, profile: Path):
        its_input, self.output = os.pipe()
        self.input, its_output = os.pipe()
        script = f'exec 3<&{its_input} 4>&{its_output}; exec "$@"'  # the numbers that the protocol wants
        command = [CHROMIUM, *self.FLAGS.split(), f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(
            ["bash", "-c", script, "bash", *command],
            pass_fds=(its_input, its_output),
            stderr=subprocess.DEVNULL,
        )
        os.close(its_input)
        os.close(its_output)
        self.received, self.sent, self.events, self.session = b"", 0, [], {}
        (tab,) = (one for one in self.call("Target.getTargets")["targetInfos"] if one["type"] == "page")
        session = self.call("Target.attachToTarget", targetId=tab["targetId"], flatten=True)
        self.session = {"sessionId": session["sessionId"]}
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params) -> dict:
        self.sent += 1
        message = {"id": self.sent, "method": method, "params": params, **self.session}
        os.write(self.output, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.received:
                self.received += os.read(self.input, 1 << 20) or pytest.fail("chromium has ended")
            first, self.received = self.received.split(b"\0", 1)
            answer = json.loads(first)
            if answer.get("id") == self.sent:
                return answer["result"]
            self.events.append(answer)

    def run(self, script: str):
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_until_done(self):
        end = time.monotonic() + 300  # of a machine that has other work
        while self.run("document.body?.dataset.state") != "done":
            assert time.monotonic() < end, self.problems()
            time.sleep(0.05)
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def open(self, page: Path):
        self.call("Page.navigate", url=page.as_uri())
        self.wait_until_done()

    def type(self, text: str):
        self.run("document.getElementById('sentence').select()")
        self.call("Input.dispatchKeyEvent", type="keyDown", key="Delete", windowsVirtualKeyCode=46)
        self.call("Input.insertText", text=text)
        self.wait_until_done()

    def press(self, key: str):
        for event in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=event, key=key)

    def text(self, selector: str) -> str:
        return self.run(f"document.querySelector({json.dumps(selector)}).textContent")

    def problems(self) -> list[dict]:
        """Errors, and whatever was written to the console."""
        wanted = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [event for event in self.events if event.get("method") in wanted]

    def requests(self) -> set[str]:
        sent = (
            event["params"] for event in self.events if event.get("method") == "Network.requestWillBeSent"
        )
        return {params["request"]["url"] for params in sent}

    def close(self):
        with contextlib.suppress(OSError):
            os.write(self.output, json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0")
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
        os.close(self.input)
        os.close(self.output)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@needs_chromium
def test_the_page_translates_what_is_typed(browser):
    model, tokenizer = explainer.load(PAGE / "data.js")
    browser.open(PAGE / "index.html")
    for sentence in ["I will give you this land.", "", "<b>漢字</b> 😀 <img src=y onerror=z()>"]:
        browser.type(sentence)
        assert browser.text("#translation") == translate(model, tokenizer, sentence)
        pieces = browser.run(
            "[...document.querySelectorAll('#source-chips small')].map((id) => Number(id.textContent))"
        )
        assert pieces == tokenizer(sentence).input_ids
    assert browser.run("document.querySelectorAll('img, .chip b, #translation b').length") == 0
    browser.run("document.querySelector('[name=beams][value=\"1\"]').click()")
    browser.type("many words " * 60)
    assert "too long" in browser.text("#message")
    assert browser.run("document.querySelectorAll('#source-chips button').length") == 50
    assert not browser.problems()
    assert browser.requests() == {
        path.as_uri() for path in PAGE.iterdir() if path.suffix in (".html", ".css")
    } | {path.as_uri() for path in PAGE.glob("*.js") if path.name != "run.js"}


@needs_chromium
@torch.no_grad()
def test_the_page_shows_pytorchs_attention_and_probabilities(browser):
    model, tokenizer = explainer.load(PAGE / "data.js")
    sentence = "Yahweh spoke to Moses, saying,"
    browser.open(PAGE / "index.html")
    browser.type(sentence)
    batch = tokenizer([sentence], return_tensors="pt")
    ids = model.generate(**batch)[:, :-1]
    outputs = model(**batch, decoder_input_ids=ids, output_attentions=True)
    # Layer 2, head 3; one step back from the last piece; the third source piece.
    browser.run("document.querySelector('[name=layer][value=\"2\"]').click()")
    browser.run("document.querySelector('[name=head][value=\"3\"]').click()")
    browser.run("document.getElementById('back').click()")
    browser.wait_until_done()
    browser.run("document.querySelectorAll('#cross-attention canvas')[1].focus()")
    for _ in range(3):
        browser.press("ArrowRight")
    shown = float(browser.text("#tooltip b").replace("−", "-"))
    assert_close(shown, outputs.cross_attentions[1][0, 2, -2, 2])
    assert "3.2.1" in browser.text("#tooltip small")
    probability = outputs.logits[0, -2].softmax(-1)[ids[0, -1]].item()
    assert browser.text("#top .written .number") == f"{100 * probability:.1f}%"
    assert not browser.problems()


@needs_chromium
def test_a_page_of_ones_own_model_works(browser, tmp_path, tiny_folder):
    explainer.build(str(tiny_folder), tmp_path / "page", about="My <model>.", examples=["the dog"])
    model, tokenizer = explainer.load(tmp_path / "page" / "data.js")
    browser.open(tmp_path / "page" / "index.html")
    assert browser.text("#translation") == translate(model, tokenizer, "the dog")
    assert browser.text("[data-fill=about]") == "My <model>."
    assert not browser.problems()
