"""Pictures of images and of the model itself can be read, and show what the model computes."""

import numpy as np
import pytest
import torch
from matplotlib.text import Annotation
from picture_layout import assert_legible, drawn_texts
from PIL import Image

from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerDetectionConfig,
    VanillaTransformerForCausalLM,
    VanillaTransformerForConditionalGeneration,
    VanillaTransformerForImageClassification,
    VanillaTransformerForMaskedLM,
    VanillaTransformerForObjectDetection,
    VanillaTransformerForQuestionAnswering,
    VanillaTransformerForSequenceClassification,
    VanillaTransformerForTokenClassification,
    VanillaTransformerImageProcessor,
    VanillaTransformerModel,
    VanillaTransformerVisionConfig,
)
from vanilla_transformer import visualization as pictures

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "encoder_layers": 2}
TEXT = SIZES | {"decoder_layers": 2, "vocab_size": 320}


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    config = VanillaTransformerVisionConfig(
        **SIZES, image_size=16, patch_size=4, id2label={0: "cat", 1: "dog"}
    )
    return VanillaTransformerForImageClassification(config).eval()


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    labels = {0: "cat", 1: "a label that nobody can read in one go"}
    config = VanillaTransformerDetectionConfig(
        **SIZES, decoder_layers=1, patch_size=8, num_queries=6, id2label=labels
    )
    return VanillaTransformerForObjectDetection(config).eval()


def weights_of(axes, image=-1):
    return axes.images[image].get_array().data


def photo(width=16, height=16):
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


# Images


@pytest.mark.parametrize("count, head", [(1, None), (1, "all"), (9, 1)])
def test_image_attention_is_legible(classifier, count, head):
    processor = VanillaTransformerImageProcessor(size={"height": 16, "width": 16})
    images = [photo(40, 30)] * count
    titles = ["a class with quite a long name"] * count
    assert_legible(pictures.plot_image_attention(classifier, processor, images, head=head, titles=titles))


@pytest.mark.parametrize("pooling", ["class_token", "mean"])
def test_image_attention_is_that_of_the_pooled_vector(pooling):
    torch.manual_seed(0)
    config = VanillaTransformerVisionConfig(**SIZES, image_size=16, patch_size=4, pooling=pooling)
    model = VanillaTransformerForImageClassification(config).eval()
    processor = VanillaTransformerImageProcessor(size={"height": 16, "width": 16})
    figure = pictures.plot_image_attention(model, processor, photo(), head=1, layer=0)
    pixels = processor(images=photo(), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        weights = model(pixels, output_attentions=True).attentions[0][0, 1]
    expected = weights[0, 1:] if pooling == "class_token" else weights.mean(0)
    assert weights_of(figure.axes[1]) == pytest.approx(expected.view(4, 4).numpy())
    with pytest.raises(ValueError, match="there are no images"):
        pictures.plot_image_attention(model, processor, [])


@pytest.mark.parametrize("count, size", [(0, 60), (1, 4), (12, 60), (100, 60)])
def test_labels_of_boxes_are_legible(count, size):
    random = np.random.default_rng(0)
    objects = []
    for number in range(count):
        left, top = random.integers(0, 80), random.integers(0, 60)
        box = {"xmin": left, "ymin": top, "xmax": left + size // 2, "ymax": top + size // 3}
        objects.append({"label": f"label {number % 9}", "score": random.uniform(), "box": box})
    figure = pictures.plot_detections(photo(120, 80), objects)
    assert len(figure.axes[0].patches) == count
    scores = [float(text.get_text().split()[-1]) for text in figure.axes[0].texts]
    assert scores == sorted(scores, reverse=True)
    if count:
        assert_legible(figure)


@pytest.mark.parametrize("size", [(48, 48), (100, 40)])
def test_query_attention_is_legible(detector, size):
    processor = VanillaTransformerImageProcessor(size={"height": 64, "width": 64})
    figure = pictures.plot_query_attention(detector, processor, photo(*size), threshold=0.0)
    assert_legible(figure)
    assert_legible(pictures.plot_query_attention(detector, processor, photo(*size), threshold=1.0))
    for axes in figure.axes[1:-1]:  # of the queries, whose weights sum to 1
        weights = weights_of(axes)
        assert weights.shape == (8, 8) and weights.sum() == pytest.approx(1, abs=1e-5)


def test_the_boxes_of_queries_are_those_of_the_processor(detector):
    processor = VanillaTransformerImageProcessor(size={"height": 64, "width": 64})
    image = photo(100, 40)
    with torch.no_grad():
        outputs = detector(**processor(images=image, return_tensors="pt"))
    scores = outputs.logits[0].sigmoid().amax(-1).sort(descending=True).values.tolist()
    found = processor.post_process_object_detection(
        outputs, threshold=(scores[2] + scores[3]) / 2, target_sizes=[(40, 100)]
    )[0]
    figure = pictures.plot_query_attention(detector, processor, image, threshold=(scores[2] + scores[3]) / 2)
    drawn = [patch.get_bbox().extents + 0.5 for patch in figure.axes[0].patches]
    expected = found["boxes"][found["scores"].argsort(descending=True)]
    assert len(drawn) == 3 and np.array(drawn) == pytest.approx(expected.clamp(min=0).numpy(), abs=1e-3)


# The model itself

ENCODER, DECODER = TEXT | {"decoder_layers": 0}, TEXT | {"encoder_layers": 0}
MODELS = {
    "paper": VanillaTransformerForConditionalGeneration(VanillaTransformerConfig(**TEXT)),
    "pre-norm": VanillaTransformerForConditionalGeneration(
        VanillaTransformerConfig(
            **TEXT, norm_position="pre", norm_type="batch", position_embedding_type="learned", head_dim=4
        )
    ),
    "untied": VanillaTransformerForConditionalGeneration(
        VanillaTransformerConfig(**TEXT, tie_word_embeddings=False, target_vocab_size=300, final_norm=True)
    ),
    "causal": VanillaTransformerForCausalLM(VanillaTransformerConfig(**DECODER)),
    "masked": VanillaTransformerForMaskedLM(VanillaTransformerConfig(**ENCODER)),
    "texts": VanillaTransformerForSequenceClassification(VanillaTransformerConfig(**ENCODER)),
    "tokens": VanillaTransformerForTokenClassification(VanillaTransformerConfig(**ENCODER)),
    "answers": VanillaTransformerForQuestionAnswering(VanillaTransformerConfig(**ENCODER)),
    "bare": VanillaTransformerModel(VanillaTransformerConfig(**TEXT)),
}


def assert_texts_fit_their_boxes(figure):
    frames = [patch.get_window_extent() for patch in figure.axes[0].patches if patch.get_fill()]
    for text in drawn_texts(figure):
        box = text.get_window_extent()
        for frame in frames:
            if frame.contains(*box.p0) or frame.contains(*box.p1) or box.overlaps(frame):
                assert frame.contains(*box.p0) and frame.contains(*box.p1), text.get_text()


@pytest.mark.parametrize("name", MODELS)
def test_the_diagram_of_text_models(name):
    check_diagram(MODELS[name])


def test_the_diagram_of_image_models(classifier, detector):
    check_diagram(classifier)
    check_diagram(detector)
    with torch.no_grad():
        length = classifier.model(torch.zeros(1, 3, 16, 16)).last_hidden_state.shape[1]
    shown = [text.get_text() for text in drawn_texts(pictures.plot_architecture(classifier))]
    assert f"(batch, {length}, 16)" in shown


def test_the_memory_leads_to_the_cross_attention():
    axes = pictures.plot_architecture(MODELS["paper"]).axes[0]
    (place,) = [text.get_position() for text in axes.texts if text.get_text() == "Cross-attention"]
    last = [text for text in axes.texts if isinstance(text, Annotation)][-1]
    assert last.xy[1] == pytest.approx(place[1], abs=0.2) and last.xy[0] < place[0]


def check_diagram(model):
    figure = pictures.plot_architecture(model)
    assert_legible(figure)
    assert_texts_fit_their_boxes(figure)
    shown = "\n".join(text.get_text() for text in drawn_texts(figure))
    assert f"{model.num_parameters():,} parameters" in shown
    stacks = [stack for stack in ("encoder", "decoder") if getattr(model.config, f"{stack}_layers")]
    assert shown.count(" ×") == len(stacks)
    if hasattr(model, "lm_head"):
        is_tied = model.lm_head.weight is model.get_input_embeddings().weight
        assert ("the matrix of the embeddings" in shown) == is_tied
    assert shown.count("Cross-attention") == (len(stacks) == 2)
    for stack in stacks:
        for module in getattr(model.base_model, stack).layers[0].children():
            assert f": {sum(weights.numel() for weights in module.parameters()):,}\n" in shown


@pytest.mark.parametrize(
    "config",
    [
        VanillaTransformerConfig(),
        VanillaTransformerConfig.from_preset("big", norm_position="pre", final_norm=True),
        VanillaTransformerConfig(
            encoder_layers=0, vocab_size=1_000_000, hidden_size=12288, num_attention_heads=96
        ),
        VanillaTransformerConfig(decoder_layers=0, position_embedding_type="learned"),
        VanillaTransformerVisionConfig.from_preset("large"),
        VanillaTransformerDetectionConfig(),
    ],
    ids=["base", "big", "huge", "encoder", "vision", "detection"],
)
def test_a_diagram_needs_no_weights(config):
    figure = pictures.plot_architecture(config)
    assert_legible(figure)
    assert_texts_fit_their_boxes(figure)


def test_another_model_has_no_diagram():
    from transformers import BertConfig, BertModel

    bert = BertModel(
        BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    )
    with pytest.raises(ValueError, match="BertModel is no model of this package"):
        pictures.plot_architecture(bert)


def test_positions_of_models(classifier, detector):
    model = MODELS["paper"]
    learned = VanillaTransformerModel(
        VanillaTransformerConfig(**TEXT, position_embedding_type="learned", max_position_embeddings=7)
    )
    shown = weights_of(pictures.plot_positional_encoding(learned).axes[0])
    assert shown == pytest.approx(learned.encoder.embed_positions.weight.detach().numpy())
    shown = weights_of(pictures.plot_positional_encoding(learned, length=5).axes[0])
    assert shown == pytest.approx(learned.encoder.embed_positions.weight[:5].detach().numpy())
    assert weights_of(pictures.plot_positional_encoding(model, length=9).axes[0]).shape == (9, 16)
    for images in (classifier, detector):
        assert_legible(pictures.plot_positional_encoding(images))
        assert_legible(pictures.plot_position_similarity(images))
    shown = weights_of(pictures.plot_positional_encoding(classifier).axes[0])
    assert shown == pytest.approx(classifier.model.encoder.embed_positions.weight.detach().numpy())
