"""Checks of an imported model: against the original where it can run, and of the model alone in any case."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional as F
from transformers import GenerationConfig

INPUTS, TOLERANCE = 20, 1e-5


@dataclass
class Report:
    """What an import found: notes that its user should know, and checks as (what, passed, detail)."""

    source: str
    format: str
    notes: list[str] = field(default_factory=list)
    checks: list[tuple[str, bool, str]] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return all(passed for _, passed, _ in self.checks)

    def add(self, what: str, passed: bool, detail: str = "") -> None:
        self.checks.append((what, bool(passed), detail))

    def __str__(self) -> str:
        lines = [f"{self.source}: a model of the format {self.format}"]
        lines += [f"note: {note}" for note in self.notes]
        for what, passed, detail in self.checks:
            lines.append(f"{'ok    ' if passed else 'FAILED'} {what}" + f" ({detail})" * bool(detail))
        return "\n".join(lines)


def random_sources(model: Any, count: int = INPUTS) -> dict[str, torch.Tensor]:
    """Sources of random words and lengths that end with the end token, padded on the right."""
    config, random = model.config, torch.Generator().manual_seed(0)
    end, pad = end_tokens(config)[0], config.pad_token_id
    lengths = torch.randint(2, 25, (count,), generator=random)
    special = {pad, *end_tokens(config), config.bos_token_id, config.decoder_start_token_id}
    words = torch.tensor([id for id in range(config.vocab_size) if id not in special])
    ids = words[torch.randint(len(words), (count, int(lengths.max())), generator=random)]
    places = torch.arange(ids.shape[1])
    ids[places >= lengths[:, None] - 1] = pad
    ids[torch.arange(count), lengths - 1] = end
    return {"input_ids": ids, "attention_mask": (places < lengths[:, None]).long()}


def random_targets(model: Any, count: int = INPUTS) -> torch.Tensor:
    config, random = model.config, torch.Generator().manual_seed(1)
    words = [id for id in range(config.output_vocab_size) if id != config.pad_token_id]
    return torch.tensor(words)[torch.randint(len(words), (count, 12), generator=random)]


def end_tokens(config: Any) -> list[int]:
    return config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, relative to the largest value where that is above 1."""
    return float((one - other).abs().max() / other.abs().max().clamp(min=1))


@torch.no_grad()
def compare_translations(report: Report, model: Any, original: Any) -> None:
    """Compares logits, greedy search and beam search with 4 beams to the original model's, on 20 inputs."""
    batch, targets = random_sources(model), random_targets(model)
    start = torch.full_like(targets[:, :1], model.config.decoder_start_token_id)
    decoder_input_ids = torch.cat([start, targets], dim=1)
    logits = model(**batch, decoder_input_ids=decoder_input_ids).logits
    found = difference(logits, original(**batch, decoder_input_ids=decoder_input_ids, use_cache=False).logits)
    report.add("logits equal the original's", found <= TOLERANCE, f"largest difference {found:.1e}")
    for beams, name in ((1, "greedy"), (4, "beam-4")):
        settings: dict[str, Any] = {"num_beams": beams, "max_length": 25, "do_sample": False}
        ours, theirs = model.generate(**batch, **settings), original.generate(**batch, **settings)
        width = max(ours.shape[1], theirs.shape[1])
        ours, theirs = (
            F.pad(ids, (0, width - ids.shape[1]), value=model.config.pad_token_id) for ids in (ours, theirs)
        )
        differ = (ours != theirs).any(dim=1)
        ties = differ & are_ties(original, batch, ours, theirs)
        detail = f"{len(ours)} inputs" + f", {int(ties.sum())} of them ties" * bool(ties.any())
        report.add(f"{name} outputs equal the original's", not (differ & ~ties).any(), detail)


def are_ties(
    original: Any, batch: dict[str, torch.Tensor], ours: torch.Tensor, theirs: torch.Tensor
) -> torch.Tensor:
    """Where two outputs differ: whether the original finds their first different words equally probable.

    Rounding decides between such words, so that a batch of another size can change them too.
    """
    logits = original(**batch, decoder_input_ids=theirs[:, :-1], use_cache=False).logits
    first = (ours != theirs).int().argmax(dim=1).clamp(min=1)  # the start token is the same
    rows = torch.arange(len(ours))
    here = logits[rows, first - 1]
    gap = here[rows, ours[rows, first]] - here[rows, theirs[rows, first]]
    return gap.abs() <= 10 * TOLERANCE * here.abs().amax(dim=1).clamp(min=1)


@torch.no_grad()
def compare_images(report: Report, model: Any, original: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Compares the outputs for 20 random images to those of the original."""
    pixels = random_pixels(model, INPUTS)
    found = difference(image_output(model(pixels)), original(pixels))
    report.add("logits equal the original's", found <= TOLERANCE, f"largest difference {found:.1e}")


def random_pixels(model: Any, count: int) -> torch.Tensor:
    size = model.config.image_size
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, model.config.num_channels, size, size, generator=generator)


def check_translator(report: Report, model: Any) -> None:
    """Checks a model alone: cached equals uncached, the loss is finite, and the end token can be reached."""
    config = model.config
    batch, targets = random_sources(model), random_targets(model)
    with torch.no_grad():
        whole = model(**batch, decoder_input_ids=targets, use_cache=False).logits
        past, steps = None, []
        for column in targets.split(1, dim=1):
            step = model(**batch, decoder_input_ids=column, past_key_values=past, use_cache=True)
            past = step.past_key_values
            steps.append(step.logits)
        found = difference(torch.cat(steps, dim=1), whole)
        loss = float(model(**batch, labels=targets).loss)
    report.add("cached decoding equals uncached", found <= TOLERANCE, f"largest difference {found:.1e}")
    report.add("the loss is finite", loss == loss and abs(loss) != float("inf"), f"{loss:.3f} nats a token")
    ends = end_tokens(config)
    reachable = bool(ends) and all(
        end is not None and 0 <= end < whole.shape[-1] and bool(whole[..., end].isfinite().all())
        for end in ends
    )
    forbidden = sorted(set(ends) & never_generated(model.generation_config))
    detail = f"bad_words_ids or suppress_tokens forbid {forbidden}" if forbidden else f"id {ends}"
    report.add("the end token can be reached", reachable and not forbidden, detail)


def never_generated(settings: GenerationConfig) -> set[int]:
    banned = {ids[0] for ids in settings.bad_words_ids or () if len(ids) == 1}
    return banned | set(settings.suppress_tokens or ())


@torch.no_grad()
def check_image_model(report: Report, model: Any) -> None:
    """Checks a model alone: a batch equals its images one by one, and the loss is finite."""
    pixels = random_pixels(model, 3)
    together = image_output(model(pixels))
    alone = torch.cat([image_output(model(image[None])) for image in pixels])
    found = difference(alone, together)
    report.add("a batch equals its images one by one", found <= TOLERANCE, f"largest difference {found:.1e}")
    if hasattr(model, "classifier"):
        loss = model(pixels, labels=torch.zeros(3, dtype=torch.long)).loss
        report.add("the loss is finite", bool(loss.isfinite()), f"{float(loss):.3f}")


def image_output(outputs: Any) -> torch.Tensor:
    """The logits; without a classifier, the vector of the whole image."""
    return outputs.logits if "logits" in outputs else outputs.pooler_output
