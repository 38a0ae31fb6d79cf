"""The work that is measured: its sizes, its sentences, and the operations that it needs.

Imports no framework, so that the process of each peer loads only what the peer needs.
"""

import random
from dataclasses import asdict, dataclass, replace
from functools import cached_property

FIRST_TOKEN = 3  # 0 starts the decoder, 1 is padding, 2 ends a sentence
LABELS = 1000  # of an image
PATCH, SIDE = 16, 224  # pixels


@dataclass(frozen=True)
class Size:
    """An encoder-decoder with as many encoder as decoder layers, or an image classifier."""

    width: int
    inner: int
    heads: int
    layers: int
    vocabulary: int = LABELS


SIZES = {
    "mini": Size(32, 64, 4, 1, 120),  # for tests
    "tiny": Size(128, 256, 4, 4, 8_000),
    "small": Size(256, 1024, 4, 3, 8_000),
    "base": Size(512, 2048, 8, 6, 37_000),
    "big": Size(1024, 4096, 16, 6, 37_000),
    "vit-mini": Size(32, 64, 4, 1),
    "vit-tiny": Size(192, 768, 3, 12),
}


@dataclass(frozen=True)
class Work:
    """One kind of work. A step of it takes all its batches once.

    Args:
        task: "training" of an encoder-decoder, "encoding" (its encoder alone), "decoding", or "images"
            (training of a classifier).
        sentences: sentences, pairs of sentences or images in a batch.
        source, target: shortest and longest sentence. All lengths in between are equally likely. An output of
            decoding has exactly the longest target's length.
        dtype: "fp32" or "bf16": autocast in training, the type of the weights in decoding.
    """

    task: str
    size: Size
    sentences: int = 16
    batches: int = 1
    source: tuple[int, int] = (4, 60)
    target: tuple[int, int] = (4, 60)
    beams: int = 1
    dtype: str = "fp32"
    device: str = "cpu"
    threads: int = 1

    @classmethod
    def from_dict(cls, values: dict) -> "Work":
        pairs = {name: tuple(values[name]) for name in ("source", "target")}
        return cls(**{**values, **pairs, "size": Size(**values["size"])})

    def as_dict(self) -> dict:
        return asdict(self)

    def smaller(self) -> "Work":
        """The same kind of work in the smallest size, to see that everything runs."""
        size = SIZES["vit-mini" if self.task == "images" else "mini"]
        source, target = ((min(low, 4), min(high, 8)) for low, high in (self.source, self.target))
        sentences = min(self.sentences, 3)
        return replace(self, size=size, sentences=sentences, source=source, target=target)

    @cached_property
    def pairs(self) -> list[list[tuple[list[int], list[int]]]]:
        """Batches of pairs of sentences, `(batches, sentences)`, of token ids without padding."""
        chance = random.Random(0)

        def sentence(lengths: tuple[int, int]) -> list[int]:
            length = chance.randint(*lengths)
            return chance.choices(range(FIRST_TOKEN, self.size.vocabulary), k=length)

        return [
            [(sentence(self.source), sentence(self.target)) for _ in range(self.sentences)]
            for _ in range(self.batches)
        ]

    @property
    def unit(self) -> str:
        units = {"training": "target tokens", "encoding": "source tokens", "decoding": "output tokens"}
        return units.get(self.task, "images")

    @property
    def units(self) -> int:
        """How many of them a step has; padding and discarded beams are none."""
        if self.task in ("images", "decoding"):
            return self.batches * self.sentences * (self.target[1] if self.task == "decoding" else 1)
        side = int(self.task == "training")
        return sum(len(pair[side]) for batch in self.pairs for pair in batch)

    @property
    def operations(self) -> int:
        """Floating-point operations of the matrix products that a step cannot do without.

        Two for each weight and real token, and two for each number of attention's two products, with half of
        them in causal self-attention. Three times as many in training. Every beam counts in decoding.
        """
        size, passes = self.size, 3 if self.task in ("training", "images") else 1
        layer, attention = 4 * size.width**2 + 2 * size.width * size.inner, 2 * size.width**2

        def attend(queries: int, keys: int) -> int:
            return 4 * queries * keys * size.width * size.layers

        def encode(tokens: int) -> int:
            return 2 * size.layers * layer * tokens + attend(tokens, tokens)

        if self.task == "images":
            patches = (SIDE // PATCH) ** 2
            first = 2 * patches * 3 * PATCH**2 * size.width
            one = first + encode(patches + 1) + 2 * size.width * LABELS
            return passes * self.batches * self.sentences * one
        total = 0
        for batch in self.pairs:
            for source, target in batch:
                s, t = len(source), self.target[1] if self.task == "decoding" else len(target)
                total += encode(s)
                if self.task == "encoding":
                    continue
                total += 2 * size.layers * attention * s  # keys and values of cross-attention
                weights = size.layers * (layer + attention) + size.width * size.vocabulary
                total += self.beams * (2 * weights * t + attend(t, t) // 2 + attend(t, s))
        return passes * total


@dataclass(frozen=True)
class Row:
    """One line of work, and the peers that do it beside each other."""

    name: str
    work: Work
    peers: tuple[str, ...]
    reference: str = "MarianMT"  # all ratios are to it


TRAINERS = ("ours", "MarianMT", "BART", "torch.nn", "eole")
DECODERS = ("ours", "ours bf16", "ours int8", "MarianMT", "BART", "CTranslate2 fp32", "CTranslate2 int8")


def rows(table: str, device: str, threads: int) -> list[Row]:
    """The rows for a "cpu" or for "cuda", in the order of running; `device` is where they run."""

    def work(task: str, size: str, **settings) -> Work:
        return Work(task, SIZES[size], device=device, threads=threads, **settings)

    def decoding(size: str, beams: int, **settings) -> Work:
        return work("decoding", size, **{"source": (8, 40), "target": (32, 32), "beams": beams, **settings})

    if table == "cuda":
        update = dict(sentences=780, dtype="bf16", batches=3)  # 25,000 tokens on each side of an update
        both = ("ours", "MarianMT")
        lone, many = dict(sentences=1, dtype="bf16"), dict(sentences=128, dtype="bf16")
        return [
            Row("train-variable-base-bf16", work("training", "base", **update), both),
            Row("train-variable-big-bf16", work("training", "big", **update), both),
            Row("beam4-base-batch128-bf16", decoding("base", 4, **many), both),
            Row("beam4-base-batch1-bf16", decoding("base", 4, **lone), both),
            Row("greedy-base-batch128-bf16", decoding("base", 1, **many), both),
            Row("beam4-small-batch128-bf16", decoding("small", 4, **many), both),
            Row(
                "compiled-layers-base-bf16",
                work("training", "base", **update),
                ("ours compiled layers", "ours"),
                "ours",
            ),
            Row(
                "compiled-model-base-bf16",
                work("training", "base", **update),
                ("ours compiled", "ours"),
                "ours",
            ),
        ]
    fixed, bf16 = dict(source=(32, 32), target=(32, 32)), dict(dtype="bf16")
    return [
        Row("train-fixed-base-fp32", work("training", "base", **fixed), TRAINERS),
        Row("train-variable-base-fp32", work("training", "base"), TRAINERS),
        Row("train-variable-small-fp32", work("training", "small", batches=2), TRAINERS),
        Row("train-variable-base-bf16", work("training", "base", **bf16), ("ours", "MarianMT", "BART")),
        Row("greedy-base", decoding("base", 1), DECODERS),
        Row("greedy-small", decoding("small", 1), DECODERS),
        Row("beam4-base", decoding("base", 4), DECODERS),
        Row("beam4-small", decoding("small", 4), DECODERS),
        Row("train-vit-tiny", work("images", "vit-tiny", sentences=8), ("ours ViT", "ViT"), "ViT"),
    ]


@dataclass(frozen=True)
class Curve:
    """How the cost of one kind of work grows; `points` are pairs of a number on the x-axis and its work."""

    name: str
    axis: str
    points: tuple[tuple[float, Work], ...]
    peers: tuple[str, ...] = ("ours", "MarianMT")
    reference: str = "MarianMT"


def curves(device: str, threads: int) -> list[Curve]:
    small = SIZES["small"]
    training = Work("training", small, batches=2, device=device, threads=threads)
    lengths = [2**power for power in range(5, 13)]  # to 4,096

    def of_length(task: str, length: int) -> Work:
        ends = (length, length)
        return replace(training, task=task, sentences=1, batches=1, source=ends, target=ends)

    cores = [count for count in (1, 2, 4, 8, 16, 32, 64) if count < threads] + [threads]
    sizes = [SIZES[name] for name in ("tiny", "small", "base", "big")]
    return [
        Curve("curve-length-encoding", "tokens", tuple((n, of_length("encoding", n)) for n in lengths)),
        Curve(
            "curve-length-training",
            "tokens on each side",
            tuple((n, of_length("training", n)) for n in lengths),
        ),
        Curve(
            "curve-batch",
            "pairs in a batch",
            tuple((n, replace(training, sentences=n)) for n in (1, 4, 16, 64)),
        ),
        Curve(
            "curve-vocabulary",
            "tokens in the vocabulary",
            tuple(
                (n, replace(training, size=replace(small, vocabulary=n)))
                for n in (2_000, 8_000, 32_000, 64_000)
            ),
        ),
        Curve(
            "curve-size",
            "weights in matrices",
            tuple((matrix_weights(size), replace(training, size=size, batches=1)) for size in sizes),
        ),
        Curve("curve-cores", "threads", tuple((n, replace(training, threads=n)) for n in cores)),
    ]


def matrix_weights(size: Size) -> int:
    layers = size.layers * (12 * size.width**2 + 4 * size.width * size.inner)
    return layers + size.width * size.vocabulary
