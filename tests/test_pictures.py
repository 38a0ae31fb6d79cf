"""Every picture can be read with few and with many words, and is the same file each time."""

import json
import math
import re

import numpy as np
import pytest
import torch
from picture_layout import assert_legible, corners, overlap

from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerForCausalLM,
    VanillaTransformerForConditionalGeneration,
    VanillaTransformerForMaskedLM,
    VanillaTransformerTokenizer,
)
from vanilla_transformer import visualization as pictures
from vanilla_transformer.noam import noam_rate

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "encoder_layers": 2}
TEXT = SIZES | {"decoder_layers": 2, "vocab_size": 320}
LONG = " ".join(["Jehová", "dió", "á", "su", "hijo", "Donaudampfschifffahrtsgesellschaft", "語", "$x$"] * 6)


@pytest.fixture(scope="module")
def tokenizer():
    texts = ["Y dió Jehová á su hijo y su tierra."] * 2
    return VanillaTransformerTokenizer.train([texts], vocab_size=320, show_progress=False)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return VanillaTransformerForConditionalGeneration(VanillaTransformerConfig(**TEXT)).eval()


def weights_of(axes, image=-1):
    return axes.images[image].get_array().data


# Text


@pytest.mark.parametrize("head", [None, "all"])
@pytest.mark.parametrize("source, target", [("su", "y"), ("su hijo dió", "Y dió á"), (LONG, LONG)])
@pytest.mark.parametrize("kind", ["cross", "encoder", "decoder"])
def test_attention_is_legible(model, tokenizer, source, target, kind, head):
    assert_legible(pictures.plot_attention(model, tokenizer, source, target, kind=kind, head=head))


def test_masked_attention_looks_back_only(model, tokenizer):
    axes = pictures.plot_attention(model, tokenizer, "su", "Y dió á su", kind="decoder").axes[0]
    weights = weights_of(axes)
    assert weights.sum(1) == pytest.approx(1, abs=1e-5) and not np.triu(weights, 1).any()
    assert [label.get_text() for label in axes.get_xticklabels()] == ["<s>", "Y", "dió", "á", "su"]


def test_a_grid_has_each_head_and_one_scale(model, tokenizer):
    figure = pictures.plot_attention(model, tokenizer, "su hijo", "dió", head="all", layer=0)
    for head in (0, 1):
        one = pictures.plot_attention(model, tokenizer, "su hijo", "dió", head=head, layer=0)
        assert weights_of(figure.axes[head]) == pytest.approx(weights_of(one.axes[0]))
    assert figure.axes[0].images[0].get_clim() == figure.axes[1].images[0].get_clim()


def test_models_with_one_stack_have_one_kind(tokenizer):
    encoder = VanillaTransformerForMaskedLM(VanillaTransformerConfig(**TEXT | {"decoder_layers": 0}))
    decoder = VanillaTransformerForCausalLM(VanillaTransformerConfig(**TEXT | {"encoder_layers": 0}))
    assert_legible(pictures.plot_attention(encoder, tokenizer, "su hijo", kind="encoder"))
    axes = pictures.plot_attention(decoder, tokenizer, "su hijo", kind="decoder").axes[0]
    assert not np.triu(weights_of(axes), 1).any()
    with pytest.raises(ValueError, match="has no self-attention of the encoder: give kind='decoder'"):
        pictures.plot_attention(decoder, tokenizer, "su", kind="encoder")
    with pytest.raises(ValueError, match="takes no target"):
        pictures.plot_attention(decoder, tokenizer, "su", "hijo", kind="decoder")
    for head in (1.5, True, "first"):
        with pytest.raises(ValueError, match="give a number, None for the mean of all, or 'all'"):
            pictures.plot_attention(decoder, tokenizer, "su hijo", kind="decoder", head=head)
    with pytest.raises(TypeError, match="source must be one text"):
        pictures.attention_page(decoder, tokenizer, ["su hijo"])
    with pytest.raises(ValueError, match="kind='self' does not exist: choose one of cross, encoder, decoder"):
        pictures.plot_attention(encoder, tokenizer, "su", kind="self")


@pytest.mark.parametrize("source, target", [("su", "y"), ("su hijo", None), (LONG, "dió á su hijo")])
def test_alignment_is_legible_and_draws_the_links(model, tokenizer, source, target):
    from vanilla_transformer import word_alignments

    figure = pictures.plot_alignment(model, tokenizer, source, target)
    if target is not None:
        assert_legible(figure)
        (links,) = word_alignments(model, tokenizer, [source], [target])
        assert len(figure.axes[0].lines) == len(links.split())


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_embeddings_are_legible(model, tokenizer, method):
    assert_legible(pictures.plot_embeddings(model, tokenizer, method=method))
    assert_legible(pictures.plot_embeddings(model, tokenizer, LONG.split()[:8], method))


def test_a_word_of_several_pieces_has_their_mean(model, tokenizer):
    from sklearn.decomposition import PCA

    words = ["Jehová", "hijo", "tierra", "Donau"]
    ids = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
    assert max(map(len, ids)) > 1
    table = model.get_input_embeddings().weight.detach()
    means = torch.stack([table[each].mean(0) for each in ids])
    expected = PCA(2).fit_transform(torch.nn.functional.normalize(means).numpy())
    axes = pictures.plot_embeddings(model, tokenizer, words).axes[0]
    assert axes.collections[0].get_offsets().data == pytest.approx(expected, abs=1e-5)


def test_too_few_words_have_no_plane(model, tokenizer):
    with pytest.raises(ValueError, match="2 words are too few"):
        pictures.plot_embeddings(model, tokenizer, ["su", "hijo"])
    with pytest.raises(ValueError, match="the tokenizer makes no token of ''"):
        pictures.plot_embeddings(model, tokenizer, ["su", "hijo", "tierra", ""])
    with pytest.raises(ValueError, match="method='umap' does not exist: choose pca or tsne"):
        pictures.plot_embeddings(model, tokenizer, method="umap")


@pytest.mark.parametrize("settings", [{}, {"length": 2, "width": 4}, {"length": 5000, "width": 1024}])
def test_positions_are_legible(settings):
    assert_legible(pictures.plot_positional_encoding(**settings))
    assert_legible(
        pictures.plot_position_similarity(**{**settings, "length": settings.get("length", 9) % 900})
    )


# Curves and scores


def test_learning_rates_are_those_of_the_paper():
    figure = pictures.plot_learning_rates([(512, 4000), (128, 10)], updates=100)
    assert_legible(figure)
    updates, rates = figure.axes[0].lines[1].get_data()
    assert rates == pytest.approx([1000 * noam_rate(update, 128, 10) for update in updates])
    assert_legible(pictures.plot_learning_rates(updates=3_000_000))


@pytest.mark.parametrize("scale", [1, 1_000_000])
def test_training_curves_are_legible(scale):
    history = [{"step": step * scale, "loss": 9 / step, "learning_rate": 1e-5 / step} for step in range(1, 9)]
    assert_legible(pictures.plot_training_curves(history))
    assert_legible(pictures.plot_learning_rate(history))
    history += [{"step": step * scale, "eval_loss": 8 / step, "eval_bleu": 3 * step} for step in (2, 4, 8)]
    figure = pictures.plot_training_curves(history)
    assert_legible(figure)
    assert figure.axes[1].lines[0].get_ydata() == pytest.approx([6, 12, 24])
    accuracy = {"step": scale, "eval_accuracy": 0.5}
    titles = [axes.get_title() for axes in pictures.plot_training_curves([accuracy, *history]).axes]
    assert titles == ["Loss", "Validation BLEU"]
    assert_legible(pictures.plot_training_curves([]))
    short = pictures.plot_training_curves(history[-1:])  # ended before the first logged loss
    assert [text.get_text() for text in short.axes[0].get_legend().get_texts()] == ["validation"]


def test_length_against_bleu_scores_each_bin_alone():
    from sacrebleu.metrics import BLEU

    random = np.random.default_rng(0)
    words = np.array(["the", "dog", "runs", "over", "a", "green", "field", "and", "two", "men"])
    lengths = random.integers(4, 40, 300)
    references = [" ".join(random.choice(words, length)) for length in lengths]
    outputs = [" ".join(text.split()[:-1]) + " cat" for text in references]
    figure = pictures.plot_length_against_bleu(references, outputs, references, bins=5)
    assert_legible(figure)
    bars = figure.axes[0].patches
    counts = []
    for label, bar in zip(figure.axes[0].get_xticklabels(), bars):
        low, high, count = map(int, re.fullmatch(r"(\d+)–(\d+)\n\((\d+)\)", label.get_text()).groups())
        chosen = [i for i, length in enumerate(lengths) if low <= length <= high]
        score = BLEU().corpus_score([outputs[i] for i in chosen], [[references[i] for i in chosen]]).score
        assert len(chosen) == count and bar.get_height() == pytest.approx(score)
        counts.append(count)
    assert sum(counts) == 300 and min(counts) > 30


@pytest.mark.parametrize("count, bins", [(1, 6), (30, 6), (3000, 20)])
def test_length_against_bleu_is_legible(count, bins):
    texts = [" ".join("abcdefgh"[: 1 + number % 8] * 20) for number in range(count)]
    assert_legible(pictures.plot_length_against_bleu(texts, texts, texts, bins))
    same = ["the dog runs over it"] * count
    assert len(pictures.plot_length_against_bleu(same, same, same, bins).axes[0].patches) == 1


def test_texts_that_do_not_match_are_an_error():
    for texts in (([], [], []), (["a"], ["a", "b"], ["a"])):
        with pytest.raises(ValueError, match="give as many of each"):
            pictures.plot_length_against_bleu(*texts)


@pytest.mark.parametrize("classes", [2, 3, 15, 16, 300])
def test_confusion_matrix_is_legible(classes):
    counts = np.random.default_rng(0).integers(0, 100_000, (classes, classes))
    names = [f"class {number} of a long name" for number in range(classes)]
    figure = pictures.plot_confusion_matrix(counts, names)
    assert_legible(figure)
    shares = weights_of(figure.axes[0])
    assert shares.sum(1) == pytest.approx(1)
    assert len(figure.axes[0].texts) == (classes**2 if classes <= 15 else 0)


def test_a_matrix_of_another_size_is_an_error():
    with pytest.raises(ValueError, match=r"the shape \(2, 3\), but there are 2 names"):
        pictures.plot_confusion_matrix(np.ones((2, 3)), ["a", "b"])


def test_reliability_is_the_share_that_is_right():
    random = np.random.default_rng(0)
    sure = random.uniform(0.5, 1, 4000)
    labels = np.where(random.uniform(size=4000) < sure, 0, 1)  # calibrated: class 0 with its probability
    probabilities = np.stack([sure, 1 - sure], -1)
    figure = pictures.plot_reliability(probabilities, np.append(labels[:-1], -100))
    assert_legible(figure)
    confidence, share = figure.axes[0].lines[1].get_data()
    assert len(share) == 5 and share == pytest.approx(confidence, abs=0.06)
    error = float(re.search(r"([\d.]+)%", figure.axes[0].get_title())[1])
    assert error == pytest.approx(100 * np.mean(abs(share - confidence)), abs=0.5)
    always = pictures.plot_reliability([[0.9, 0.1]] * 10, [0] * 5 + [1] * 5)
    assert "40.0%" in always.axes[0].get_title()
    assert_legible(pictures.plot_reliability([[1.0, 0.0]], [0]))
    with pytest.raises(ValueError, match="no example has a label"):
        pictures.plot_reliability([[0.9, 0.1]], [-100])


# Files


def test_saving_twice_gives_the_same_file(model, tokenizer, tmp_path):
    for suffix in ("svg", "png", "pdf"):
        saved = []
        for number in range(2):
            figure = pictures.plot_attention(model, tokenizer, "su hijo", "dió")
            figure.savefig(tmp_path / f"{number}.{suffix}")
            saved.append((tmp_path / f"{number}.{suffix}").read_bytes())
        assert saved[0] == saved[1]
    text = (tmp_path / "0.svg").read_text()
    assert ">hijo<" in text and "<dc:date>" not in text  # text is text


def test_a_missing_font_is_one_warning(model, tokenizer, tmp_path, recwarn):
    figure = pictures.plot_alignment(model, tokenizer, "\U00010900\U00010901 su", "dió")  # Phoenician
    assert not [each for each in recwarn if "Glyph" in str(each.message)]
    figure.savefig(tmp_path / "a.svg")
    assert "\U00010900" in (tmp_path / "a.svg").read_text() and not recwarn.list
    figure.savefig(tmp_path / "a.png")
    messages = [str(each.message) for each in recwarn]
    assert len(messages) == 1 and "no font here has \U00010900 \U00010901" in messages[0]


def test_the_callers_style_stays(model, tokenizer):
    import matplotlib

    before = dict(matplotlib.rcParams)
    pictures.plot_attention(model, tokenizer, "su", "dió")
    assert dict(matplotlib.rcParams) == before


def test_the_helper_sees_what_is_wrong():
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3, 3))
    figure.text(0.5, 0.5, "one")
    assert_legible(figure)
    other = figure.text(0.5, 0.52, "two")
    with pytest.raises(AssertionError, match="'one' is over 'two'"):
        assert_legible(figure)
    other.set(position=(0.99, 0.1))
    with pytest.raises(AssertionError, match="'two' is cut off"):
        assert_legible(figure)
    square = np.array([[0, 0], [0, 1], [1, 1], [1, 0]])
    turned = (square - 0.5) @ np.array([[1, 1], [-1, 1]]) / math.sqrt(2)
    assert overlap(square, turned + [1.1, 0.5]) and not overlap(square, turned + [1.4, 1.4])
    turned = figure.text(0.2, 0.2, "slanted", rotation=90, rotation_mode="anchor")
    expected = corners(turned)
    turned.set_rotation(89.999)
    for extreme in (np.min, np.max):
        assert extreme(corners(turned), axis=0) == pytest.approx(extreme(expected, axis=0), abs=2)


def test_the_page_is_whole_and_safe(model, tokenizer):
    source = "su </script><b>hijo</b> <!-- DATA TITLE & \u2028 $"
    page = pictures.attention_page(model, tokenizer, source, "dió </script>")
    assert page.count("</script>") == 2 and "<b>" not in page and "http" not in page.replace("http-equiv", "")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    kinds = json.loads(data)
    assert [kind["name"].split()[0] for kind in kinds] == ["cross-attention", "self-attention", "masked"]
    assert "".join(kinds[1]["columns"]).startswith("su␣</script><b>hijo</b>")


def test_the_page_has_all_weights(model, tokenizer):
    import base64

    page = pictures.attention_page(model, tokenizer, "su hijo", "Y dió")
    kinds = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    for kind, name in zip(kinds, ("cross", "encoder", "decoder")):
        shape = [kind["layers"], kind["heads"], len(kind["rows"]), len(kind["columns"])]
        weights = np.frombuffer(base64.b64decode(kind["weights"]), np.uint8).reshape(shape) / 255
        for layer, head in ((0, 1), (1, 0)):
            figure = pictures.plot_attention(
                model, tokenizer, "su hijo", "Y dió", kind=name, layer=layer, head=head
            )
            assert weights[layer, head] == pytest.approx(weights_of(figure.axes[0]), abs=0.002)
