"""examples/annotated.py, the paper in one file, computes what the package computes with the same weights."""

import ast
import contextlib
import io
import random
import sys

import pytest
import torch
from launch import ROOT, load_script

from vanilla_transformer import TrainingLoss, VanillaTransformerConfig
from vanilla_transformer import VanillaTransformerForConditionalGeneration as PackageTransformer
from vanilla_transformer.generation import paper_generation_config
from vanilla_transformer.training import noam_rate

FILE = ROOT / "examples" / "annotated.py"
annotated = load_script("examples/annotated.py")

NUMBERS = range(0, 1000, 7)

# The file's names of weights -> the package's.
ATTENTION = {"W_Q": "q_proj", "W_K": "k_proj", "W_V": "v_proj", "W_O": "o_proj"}
NAMES = {
    "encoder": {"add_norm_1": "self_attn_add_norm", "add_norm_2": "feed_forward_add_norm"},
    "decoder": {
        "add_norm_1": "self_attn_add_norm",
        "add_norm_2": "cross_attn_add_norm",
        "add_norm_3": "feed_forward_add_norm",
    },
}
COMMON = {"self_attention": "self_attn", "cross_attention": "cross_attn", "W_1": "fc1", "W_2": "fc2"}


def package_name(name):
    """`encoder.0.self_attention.W_Q.weight` -> `model.encoder.layers.0.self_attn.q_proj.weight`."""
    if name == "embedding.weight":
        return "model.shared.weight"
    stack, layer, *rest = name.split(".")
    names = {**ATTENTION, **COMMON, **NAMES[stack]}
    return ".".join(["model", stack, "layers", layer, *(names.get(part, part) for part in rest)])


def in_package(own):
    """The package's model with the weights of `own`."""
    layer = own.encoder[0]
    config = VanillaTransformerConfig(
        vocab_size=own.embedding.num_embeddings,
        hidden_size=own.d_model,
        intermediate_size=layer.feed_forward.W_1.out_features,
        num_attention_heads=layer.self_attention.h,
        encoder_layers=len(own.encoder),
        decoder_layers=len(own.decoder),
    )
    package = PackageTransformer(config)
    weights = {package_name(name): value for name, value in own.state_dict().items()}
    missing, unexpected = package.load_state_dict(weights, strict=False)
    assert not unexpected
    tied = {"lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"}
    assert set(missing) == tied
    package.generation_config = paper_generation_config(config)
    return package.eval()


@pytest.fixture(scope="module")
def trained():
    """A small model that has learned NUMBERS, in both forms. Of other numbers it is not sure."""
    random.seed(0)
    torch.manual_seed(0)
    pairs = [(annotated.ids(str(number)), annotated.ids(annotated.spell(number))) for number in NUMBERS]
    own = annotated.Transformer(len(annotated.VOCABULARY), N=1, d_model=32, d_ff=64, h=4)
    with contextlib.redirect_stdout(io.StringIO()):
        annotated.train(own, pairs, steps=300, tokens=300, warmup_steps=100)
    return own, in_package(own)


@pytest.fixture(scope="module")
def sources():
    """Random digits."""
    draw = random.Random(1)
    numbers = [draw.randrange(10 ** draw.randint(1, 6)) for _ in range(12)]
    return [annotated.ids(str(number)) for number in numbers]


def random_pairs(count, vocabulary=20, longest=9):
    def sentence():
        words = random.randint(1, longest)
        return [random.randrange(3, vocabulary) for _ in range(words)] + [annotated.END]

    return [(sentence(), sentence()) for _ in range(count)]


@pytest.fixture
def batch():
    random.seed(3)
    sources, targets = zip(*random_pairs(7))
    return annotated.padded(sources), annotated.padded(targets)


def inputs_of(source, target):
    labels = target.masked_fill(target == annotated.PAD, -100)
    return {"input_ids": source, "attention_mask": (source != annotated.PAD).long(), "labels": labels}


def shifted(target):
    return torch.cat([torch.full_like(target[:, :1], annotated.START), target[:, :-1]], dim=1)


def test_the_file_is_short_and_needs_torch_alone():
    text = FILE.read_text()
    assert len(text.splitlines()) <= 330
    modules = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            modules.add((node.module or "").partition(".")[0])
    assert "torch" in modules
    assert modules - {"torch"} <= sys.stdlib_module_names


def test_the_defaults_are_the_base_model():
    with torch.device("meta"):
        own = annotated.Transformer(37000)
        package = PackageTransformer(VanillaTransformerConfig())
    shapes = {package_name(name): value.shape for name, value in own.named_parameters()}
    assert shapes == {name: value.shape for name, value in package.named_parameters()}
    assert own.dropout.p == package.config.dropout


def test_logits_loss_and_gradients_are_equal(batch):
    """In float64, where 1e-6 is far above rounding. (The package's loss and sinusoids are float32.)"""
    torch.manual_seed(0)
    own = annotated.Transformer(20, N=2, d_model=16, d_ff=32, h=4).double().eval()
    with torch.no_grad():
        for weights in own.parameters():  # biases and norms too
            weights.add_(0.1 * torch.randn_like(weights))
    package = in_package(own).double()
    source, target = batch
    logits = own(source, shifted(target))
    real = target != annotated.PAD
    torch.testing.assert_close(
        logits[real], package(**inputs_of(source, target)).logits[real], atol=1e-6, rtol=1e-6
    )

    loss = annotated.smoothed_loss(logits, target)
    package_loss = package(**inputs_of(source, target), training_loss=TrainingLoss(smoothing=0.1)).loss
    torch.testing.assert_close(loss.float(), package_loss.float(), atol=1e-6, rtol=1e-6)

    loss.backward()
    package_loss.backward()
    gradients = {name: value.grad for name, value in package.named_parameters()}
    for name, value in own.named_parameters():
        if not name.endswith("W_K.bias"):  # it adds the same to all scores of a query
            assert value.grad.abs().max() > 1e-4
        torch.testing.assert_close(value.grad, gradients.pop(package_name(name)), atol=1e-6, rtol=1e-6)
    assert not gradients


def test_padding_changes_nothing(batch):
    own, (source, target) = annotated.Transformer(20, N=2, d_model=16, d_ff=32, h=4).double().eval(), batch
    wider = torch.nn.functional.pad(source, (0, 3), value=annotated.PAD)
    torch.testing.assert_close(own(wider, shifted(target)), own(source, shifted(target)))


@pytest.mark.parametrize("extra", [0, 50])
def test_greedy_search_is_equal(trained, sources, extra):
    own, package = trained
    source = annotated.padded(sources)
    mask = (source != annotated.PAD).long()
    settings = {"num_beams": 1, "length_penalty": 1.0, "max_extra_tokens": extra}
    generated = package.generate(input_ids=source, attention_mask=mask, **settings)
    expected = [[id for id in row if id != annotated.PAD] for row in generated[:, 1:].tolist()]
    assert annotated.greedy_search(own, source, extra) == expected


@pytest.mark.parametrize("settings", [{}, {"alpha": 0.0}, {"beam": 2, "alpha": 1.5}, {"extra": 0}])
def test_beam_search_is_equal(trained, sources, settings):
    own, package = trained
    names = {"beam": "num_beams", "alpha": "length_penalty", "extra": "max_extra_tokens"}
    outputs = []
    for source in map(torch.tensor, sources):
        generated = package.generate(
            input_ids=source[None],
            return_dict_in_generate=True,
            output_scores=True,
            **{names[key]: value for key, value in settings.items()},
        )
        score, words = annotated.beam_search(own, source, **settings)[0]
        assert words == generated.sequences[0, 1:].tolist()
        assert score == pytest.approx(generated.sequences_scores.item(), rel=1e-4)
        outputs.append(tuple(words))
    assert len(set(outputs)) > 6 and len({len(output) for output in outputs}) > 2, outputs


@pytest.mark.parametrize("d_model, warmup_steps", [(512, 4000), (64, 10)])
def test_the_schedule_is_equal(d_model, warmup_steps):
    for step in (1, 2, warmup_steps - 1, warmup_steps, warmup_steps + 1, 100_000):
        rate = annotated.learning_rate(step, d_model, warmup_steps)
        assert rate == pytest.approx(noam_rate(step, d_model, warmup_steps), rel=1e-12)


def test_batches_hold_every_pair_once_within_the_budget():
    random.seed(0)
    pairs, tokens, seen = random_pairs(200), 60, []
    for source, target in annotated.batches(pairs, tokens):
        assert max(source.numel(), target.numel()) <= tokens
        for row in zip(source.tolist(), target.tolist()):
            seen.append(tuple([id for id in side if id != annotated.PAD] for side in row))
    assert sorted(seen) == sorted(pairs)


@pytest.mark.parametrize(
    "number, words",
    [(0, "zero"), (17, "seventeen"), (40, "forty"), (500, "five hundred")]
    + [(13_021, "thirteen thousand twenty one"), (407_900, "four hundred seven thousand nine hundred")],
)
def test_numbers_are_spelled(number, words):
    assert " ".join(annotated.spell(number)) == words


def test_training_learns(trained):
    own, _ = trained
    assert not own.training
    outputs = annotated.greedy_search(own, annotated.padded([annotated.ids(str(n)) for n in NUMBERS]))
    right = sum(words == annotated.ids(annotated.spell(n)) for n, words in zip(NUMBERS, outputs))
    assert right > 0.8 * len(NUMBERS)


def test_a_short_training_averages_the_checkpoints_that_it_has():
    torch.manual_seed(0)
    own = annotated.Transformer(len(annotated.VOCABULARY), N=1, d_model=16, d_ff=32, h=2)
    pair = (annotated.ids("7"), annotated.ids(annotated.spell(7)))
    annotated.train(own, [pair], steps=3, tokens=300, warmup_steps=100)
    norms = [value for name, value in own.named_parameters() if name.endswith("norm.weight")]
    assert norms and all((value - 1).abs().max() < 0.1 for value in norms)
