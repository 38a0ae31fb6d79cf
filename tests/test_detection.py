"""The detection model: parity with torch.nn's attention and transformers' loss, padding, learning."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from transformers.loss.loss_rt_detr import RTDetrLoss

from vanilla_transformer import VanillaTransformerDetectionConfig, VanillaTransformerForObjectDetection
from vanilla_transformer.modeling_vanilla_transformer_detection import LOSS, ImageByImageMatcher
from vanilla_transformer.stacks import Decoder, Encoder

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "patch_size": 8,
    "num_queries": 9,
    "num_labels": 4,
}


def random_model(**settings) -> VanillaTransformerForObjectDetection:
    """A model whose weights are all random, even those that start at zero, and that has seen a few images."""
    torch.manual_seed(0)
    model = VanillaTransformerForObjectDetection(VanillaTransformerDetectionConfig(**SIZES | settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        model(torch.randn(4, 3, 64, 64))
    return model.eval()


def random_labels(*counts: int) -> list[dict]:
    torch.manual_seed(1)
    return [
        {
            "class_labels": torch.randint(0, SIZES["num_labels"], (count,)),
            "boxes": torch.rand(count, 4) * 0.4 + 0.1,
        }
        for count in counts
    ]


def copy_attention(target: nn.MultiheadAttention, source) -> None:
    projections = source.q_proj, source.k_proj, source.v_proj
    target.in_proj_weight.data = torch.cat([projection.weight for projection in projections])
    target.in_proj_bias.data = torch.cat([projection.bias for projection in projections])
    target.out_proj.load_state_dict(source.o_proj.state_dict())


def torch_attention(source, queries, keys, values, padding=None):
    attention = nn.MultiheadAttention(queries.shape[-1], source.config.num_attention_heads, batch_first=True)
    copy_attention(attention, source)
    return attention(queries, keys, values, key_padding_mask=padding, need_weights=False)[0]


@pytest.mark.parametrize("norm_position", ["post", "pre"])
@torch.no_grad()
def test_stacks_equal_torch_with_positions_on_queries_and_keys_only(norm_position):
    """Compares with DETR's transformer, written with torch.nn's attention, on the same weights."""
    torch.manual_seed(0)
    config = VanillaTransformerDetectionConfig(**SIZES, norm_position=norm_position, activation="relu")
    encoder, decoder = Encoder(config).eval(), Decoder(config, is_causal=False).eval()
    for parameter in [*encoder.parameters(), *decoder.parameters()]:
        parameter.add_(torch.randn_like(parameter) * 0.1)
    cells, positions = torch.randn(2, 12, 32), torch.randn(1, 12, 32)
    queries, query_positions = torch.randn(2, 5, 32), torch.randn(2, 5, 32)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, 7:] = False

    def add_norm(module, states, sublayer):
        if norm_position == "pre":
            return states + sublayer(module.norm(states))
        return module.norm(states + sublayer(states))

    memory = cells
    for layer in encoder.layers:

        def self_attention(x, layer=layer):
            return torch_attention(layer.self_attn, x + positions, x + positions, x, ~mask)

        memory = add_norm(layer.self_attn_add_norm, memory, self_attention)
        memory = add_norm(layer.feed_forward_add_norm, memory, layer.feed_forward)
    memory = encoder.norm(memory)
    states = queries
    for layer in decoder.layers:

        def query_attention(x, layer=layer):
            return torch_attention(layer.self_attn, x + query_positions, x + query_positions, x)

        def cross_attention(x, layer=layer):
            return torch_attention(layer.cross_attn, x + query_positions, memory + positions, memory, ~mask)

        states = add_norm(layer.self_attn_add_norm, states, query_attention)
        states = add_norm(layer.cross_attn_add_norm, states, cross_attention)
        states = add_norm(layer.feed_forward_add_norm, states, layer.feed_forward)
    states = decoder.norm(states)

    ours = encoder(cells, mask, position_vectors=positions).last_hidden_state
    torch.testing.assert_close(ours[mask], memory[mask], atol=1e-5, rtol=1e-5)
    each = []
    found = decoder(
        queries,
        encoder_hidden_states=ours,
        encoder_attention_mask=mask,
        position_vectors=query_positions,
        memory_position_vectors=positions,
        layer_outputs=each,
    ).last_hidden_state
    torch.testing.assert_close(found, states, atol=1e-5, rtol=1e-5)
    assert len(each) == config.decoder_layers
    torch.testing.assert_close(each[-1], found)


@pytest.mark.parametrize("stem", ["convolutions", "patches"])
@torch.no_grad()
def test_padding_changes_no_detection(stem):
    model = random_model(stem=stem)
    sizes = [(40, 64), (50, 30), (16, 16)]  # whole cells, parts of cells, fewer cells than queries
    images = [torch.randn(3, *size) for size in sizes]
    batch, mask = torch.zeros(3, 3, 64, 64), torch.zeros(3, 64, 64, dtype=torch.long)
    for index, (image, (height, width)) in enumerate(zip(images, sizes)):
        batch[index, :, :height, :width], mask[index, :height, :width] = image, 1
    batch[mask[:, None].expand_as(batch) == 0] = 7.0  # padding is ignored, whatever it holds
    together = model(batch, mask)
    for index, image in enumerate(images):
        alone = model(image[None])
        queries = alone.logits.shape[1]
        close = {"atol": 1e-5, "rtol": 1e-4}
        torch.testing.assert_close(together.logits[index, :queries], alone.logits[0], **close)
        torch.testing.assert_close(together.pred_boxes[index, :queries], alone.pred_boxes[0], **close)
        assert (together.logits[index, queries:].sigmoid() == 0).all()


@torch.no_grad()
def test_queries_start_from_the_boxes_of_the_cells_with_the_highest_scores():
    model = random_model()
    found = model.model(torch.randn(2, 3, 64, 64))
    scores = found.proposal_logits.amax(-1)  # (batch, cells)
    for image in range(2):
        best = scores[image].argsort(descending=True)[: SIZES["num_queries"]]
        boxes = found.reference_boxes[image].sigmoid()
        torch.testing.assert_close(boxes, found.proposal_boxes[image, best], atol=1e-4, rtol=0)


@torch.no_grad()
def test_an_untrained_model_has_boxes_of_the_anchor_size_and_low_scores():
    model = VanillaTransformerForObjectDetection(VanillaTransformerDetectionConfig(**SIZES)).eval()
    found = model.model(torch.randn(1, 3, 32, 64))  # 4 x 8 cells
    boxes = found.proposal_boxes[0].unflatten(0, (4, 8))
    torch.testing.assert_close(boxes[1, 2], torch.tensor([2.5 / 8, 1.5 / 4, 3 / 8, 3 / 4]))
    outputs = model(torch.randn(1, 3, 32, 64))
    assert found.proposal_logits.sigmoid().max() < 0.5 and outputs.logits.sigmoid().max() < 0.5


def test_the_loss_is_the_sum_of_transformers_loss_over_layers_and_proposals():
    model, pixels, labels = random_model(), torch.randn(3, 3, 64, 64), random_labels(2, 0, 4)
    outputs = model(pixels, labels=labels)
    inside = model.model(pixels)
    criterion = RTDetrLoss(SimpleNamespace(num_labels=SIZES["num_labels"], **LOSS))
    logits, boxes = model.head(inside.intermediate_hidden_states, inside.reference_boxes)
    layers = [{"logits": a, "pred_boxes": b} for a, b in zip(logits, boxes)]
    layers.append({"logits": inside.proposal_logits, "pred_boxes": inside.proposal_boxes})
    expected = sum(sum(criterion(layer, labels).values()) for layer in layers)
    torch.testing.assert_close(outputs.loss, expected)
    assert len(outputs.auxiliary_outputs) == SIZES["decoder_layers"] - 1
    assert outputs.loss.item() == pytest.approx(sum(loss.item() for loss in outputs.loss_dict.values()))


def test_matching_image_by_image_equals_matching_the_batch():
    torch.manual_seed(0)
    outputs = {"logits": torch.randn(4, 20, 4), "pred_boxes": torch.rand(4, 20, 4) * 0.5 + 0.1}
    labels = random_labels(3, 0, 20, 1)
    settings = SimpleNamespace(**LOSS)
    ours, theirs = ImageByImageMatcher(settings), super(ImageByImageMatcher, ImageByImageMatcher(settings))
    for one, other in zip(ours(outputs, labels), theirs.forward(outputs, labels)):
        assert all(map(torch.equal, one, other))


def test_every_weight_has_a_gradient():
    model = random_model().train()
    model(torch.randn(2, 3, 64, 64), labels=random_labels(3, 2)).loss.backward()
    idle = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not idle


def test_images_without_objects_have_a_loss():
    model = random_model().train()
    outputs = model(torch.randn(2, 3, 64, 64), labels=random_labels(0, 0))
    outputs.loss.backward()
    assert torch.isfinite(outputs.loss) and outputs.loss > 0
    assert outputs.loss_dict["loss_bbox"] == 0


def test_the_model_learns_to_find_squares():
    """Bright and dark squares on grey: after 120 updates far more than chance are found."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)

    def draw(count: int):
        images, labels = torch.zeros(count, 3, 48, 48), []
        for index in range(count):
            left, top = random.integers(0, 32, 2)
            side, label = int(random.integers(10, 17)), int(random.integers(2))
            images[index, :, top : top + side, left : left + side] = (1.0, -1.0)[label]
            box = torch.tensor([[left + side / 2, top + side / 2, side, side]]) / 48
            labels.append({"class_labels": torch.tensor([label]), "boxes": box.clamp(0, 1).float()})
        return images, labels

    settings = {"encoder_layers": 1, "decoder_layers": 1, "num_queries": 5, "num_labels": 2, "dropout": 0.0}
    model = VanillaTransformerForObjectDetection(VanillaTransformerDetectionConfig(**SIZES | settings))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(120):
        images, labels = draw(8)
        loss = model(images, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, labels = draw(50)
    with torch.no_grad():
        outputs = model.eval()(images)
    best = outputs.logits.flatten(1).argmax(-1)
    right = sum(int(one) % 2 == int(label["class_labels"]) for one, label in zip(best, labels))
    boxes = outputs.pred_boxes[torch.arange(50), best // 2]
    distance = (boxes - torch.cat([label["boxes"] for label in labels])).abs().mean()
    assert right >= 45
    assert distance < 0.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_size": 12}, "patch_size=12 must be a power of 2"),
        ({"decoder_layers": 0}, "decoder_layers=0"),
        ({"hidden_size": 30, "num_attention_heads": 2}, "hidden_size=30 must be a multiple of 4"),
        ({"anchor_size": 0}, "anchor_size=0"),
        ({"num_queries": 0}, "num_queries=0"),
    ],
)
def test_wrong_settings_raise(settings, message):
    with pytest.raises(Exception, match=message):
        VanillaTransformerDetectionConfig(**SIZES | settings)


def test_the_decoders_loss_sends_no_gradient_into_the_boxes_that_its_queries_start_from():
    """Reference boxes are detached (Zhu et al. 2021, section 4.2): only their own loss trains proposals."""
    model = random_model().train()
    outputs = model(torch.randn(2, 3, 64, 64))
    (outputs.pred_boxes.sum() + outputs.logits.sum()).backward()
    assert all(weight.grad is None or not weight.grad.any() for weight in model.model.proposals.parameters())
    assert all(weight.grad is not None for weight in model.model.encoder.parameters())


@pytest.mark.parametrize("size", [64, 60])
@torch.no_grad()
def test_a_detector_in_bf16_takes_pixels_in_float32(size):
    model, pixels = random_model(), torch.rand(1, 3, size, size)
    exact = model(pixels).logits
    rounded = model.bfloat16()(pixels).logits
    assert rounded.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(rounded.float().flatten(), exact.flatten(), dim=0) > 0.9
