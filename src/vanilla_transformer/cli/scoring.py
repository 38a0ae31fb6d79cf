"""`score` and `classify`: numbers and labels for lines."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional as F

from ..pipeline_batches import of_similar_length
from .generating import check_length, load_pipeline, longest_input
from .lines import Line, Streams, as_one_line, write_record

TOKENS = 1024  # of source and target in a batch: each target token has the logits of all words


def score(
    model: str, streams: Streams, tokens: bool, device: str | None, batch_size: int | None, **languages: str
) -> None:
    streams.check()
    scorer = PairScorer(load_pipeline("translation", model, device, **languages), batch_size)

    def work(lines: list[Line]) -> Iterator[bytes]:
        scores = scorer.scores(lines)
        return (written_scores(line, scores.get(line.number), streams.format, tokens) for line in lines)

    streams.process(work)


class PairScorer:
    """The log-probabilities of targets, token by token, each with those before it as the decoder's input."""

    def __init__(self, pipe: Any, batch_size: int | None = None):
        self.pipe, self.batch_size = pipe, batch_size
        self.longest = longest_input(pipe.model, pipe.tokenizer)
        self.options = {**pipe._preprocess_params}
        self.options.pop("truncation", None)

    def scores(self, lines: list[Line]) -> dict[int, list[float]]:
        """The log-probability of each target token, its end token too, by the numbers of the good lines."""
        numbers, pairs = [], []
        for line in lines:
            if line.error is not None:
                continue
            try:
                pairs.append(self.encode(*line.texts))
                numbers.append(line.number)
            except ValueError as error:
                line.error = str(error)
        found = {}
        for batch in of_similar_length([len(s) + len(t) for s, t in pairs], self.batch_size, TOKENS):
            for index, log_probabilities in zip(batch, self.log_probabilities([pairs[i] for i in batch])):
                found[numbers[index]] = log_probabilities
        return found

    def encode(self, source: str, target: str) -> tuple[torch.Tensor, torch.Tensor]:
        if not source.strip():
            raise ValueError("the source is blank")
        for text, prefix in ((source, self.pipe.prefix), (target, "")):
            check_length(self.pipe.tokenizer, prefix + text, self.longest)
        ids = self.pipe.encode(source, **self.options)["input_ids"][0]
        labels = self.pipe.tokenizer(text_target=target, return_tensors="pt", verbose=False)["input_ids"][0]
        return ids, labels

    @torch.no_grad()
    def log_probabilities(self, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> list[list[float]]:
        model, pad = self.pipe.model, self.pipe.tokenizer.pad_token_id
        sources, targets = ([pair[side] for pair in pairs] for side in (0, 1))
        mask = [torch.ones_like(source) for source in sources]
        batch = {
            "input_ids": padded(sources, pad),
            "attention_mask": padded(mask, 0),
            "labels": padded(targets, -100),
        }
        batch = {name: ids.to(model.device) for name, ids in batch.items()}
        logits = model(**batch).logits.float()  # (pairs, tokens, vocabulary)
        losses = F.cross_entropy(logits.transpose(1, 2), batch["labels"], reduction="none").cpu()
        return [(-row[: len(target)]).tolist() for row, target in zip(losses, targets)]


def padded(rows: list[torch.Tensor], value: int) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def written_scores(line: Line, scores: list[float] | None, format: str, tokens: bool) -> bytes:
    if scores is None:
        return write_record({**line.record, "error": line.error}) if format == "jsonl" else b"\n"
    total = sum(scores)
    rounded = [round(score, 6) for score in scores]
    if format == "jsonl":
        found: dict[str, Any] = {"log_probability": round(total, 6), "tokens": len(scores)}
        return write_record(
            {**line.record, **found, **({"token_log_probabilities": rounded} if tokens else {})}
        )
    columns = [f"{total:.6f}", f"{total / len(scores):.6f}", str(len(scores))]
    columns += [" ".join(map(str, rounded))] if tokens else []
    return ("\t".join(columns) + "\n").encode()


def classify(
    model: str, streams: Streams, top: int, device: str | None, batch_size: int | None, truncate: bool
) -> None:
    streams.check()
    pipe = load_pipeline("text-classification", model, device)
    kinds = pipe.model.config.architectures or []
    if not any("SequenceClassification" in kind for kind in kinds):
        raise ValueError(f"{model} does not classify texts: its config.json names {', '.join(kinds)}")
    longest = longest_input(pipe.model, pipe.tokenizer)
    options = {"truncation": True, "max_length": longest} if truncate else {}

    def work(lines: list[Line]) -> Iterator[bytes]:
        for line in lines:
            if line.error is None and not truncate:
                try:
                    check_length(pipe.tokenizer, line.texts[0], longest)
                except ValueError as error:
                    line.error = str(error)
        good = [line for line in lines if line.error is None]
        texts = [line.texts[0] for line in good]
        found: dict[int, list[dict]] = {}
        for batch in of_similar_length([len(text) for text in texts], batch_size, 8 * TOKENS):
            rows = pipe([texts[index] for index in batch], top_k=top, batch_size=len(batch), **options)
            found |= {good[index].number: row for index, row in zip(batch, rows)}
        return (written_labels(line, found.get(line.number), streams.format, top) for line in lines)

    streams.process(work)


def written_labels(line: Line, labels: list[dict] | None, format: str, top: int) -> bytes:
    if labels is None:
        return write_record({**line.record, "error": line.error}) if format == "jsonl" else b"\n"
    if format == "jsonl":
        rounded = [{**label, "score": round(label["score"], 6)} for label in labels]
        return write_record({**line.record, **(rounded[0] if top == 1 else {"labels": rounded})})
    columns = [
        column for found in labels for column in (as_one_line(found["label"]), f"{found['score']:.6f}")
    ]
    return ("\t".join(columns) + "\n").encode()
