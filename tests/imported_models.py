"""What every importer of translation models is tested for: logits, search and the loss of the first step."""

import torch
from torch.nn import functional as F

from vanilla_transformer import TrainingLoss


def source_batch(model, count: int = 5) -> dict[str, torch.Tensor]:
    """Sources of different lengths, padded on the right, and targets."""
    torch.manual_seed(3)
    config = model.config
    ids = torch.randint(5, config.vocab_size - 3, (count, 12))
    mask = torch.ones_like(ids)
    for row in range(count):
        ids[row, 12 - row :], mask[row, 12 - row :] = config.pad_token_id, 0
    targets = torch.randint(5, config.output_vocab_size - 3, (count, 9))
    targets[:, -1] = config.eos_token_id
    return {"input_ids": ids, "attention_mask": mask, "labels": targets}


def decoder_inputs(model, labels: torch.Tensor) -> torch.Tensor:
    return F.pad(labels[:, :-1], (1, 0), value=model.config.decoder_start_token_id)


def assert_same_logits(model, logits_of) -> None:
    """`logits_of(input_ids, attention_mask, decoder_input_ids)` are the original's."""
    batch = source_batch(model)
    inputs = decoder_inputs(model, batch.pop("labels"))
    with torch.no_grad():
        ours = model(**batch, decoder_input_ids=inputs).logits
        theirs = logits_of(batch["input_ids"], batch["attention_mask"], inputs)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def assert_same_output(model, original, num_beams: int) -> None:
    batch = source_batch(model)
    del batch["labels"]
    ours = model.generate(**batch, num_beams=num_beams)
    assert torch.equal(ours, original.generate(**batch, num_beams=num_beams))
    assert len(set(map(tuple, ours.tolist()))) > 1  # the outputs depend on the inputs


def plain_search(model, logits_of, num_beams: int, longest: int = 16) -> torch.Tensor:
    """Beam search with log P / length, one sentence at a time and without a cache: `(sentences, longest)`."""
    batch, config = source_batch(model), model.config
    results = []
    for ids, mask in zip(batch["input_ids"], batch["attention_mask"]):
        ids = ids[mask == 1][None]
        live, done = [(0.0, [config.decoder_start_token_id])], []
        for length in range(1, longest):
            rows = torch.tensor([tokens for _, tokens in live])
            with torch.no_grad():
                logits = logits_of(
                    ids.expand(len(rows), -1), torch.ones_like(ids.expand(len(rows), -1)), rows
                )
            log_probs = logits[:, -1].log_softmax(-1)
            candidates = [
                (score + float(value), [*tokens, int(token)])
                for (score, tokens), row in zip(live, log_probs)
                for value, token in zip(*row.topk(2 * num_beams))
            ]
            candidates.sort(key=lambda pair: -pair[0])
            live = []
            for rank, (score, tokens) in enumerate(candidates[: 2 * num_beams]):
                if tokens[-1] == config.eos_token_id or length == longest - 1:
                    if rank < num_beams:
                        done.append((score / length, tokens))
                elif len(live) < num_beams:
                    live.append((score, tokens))
            done = sorted(done, key=lambda pair: -pair[0])[:num_beams]
            if not live or (len(done) == num_beams and done[-1][0] >= live[0][0] / length):
                break
        results.append(max(done, key=lambda pair: pair[0])[1])
    width = max(map(len, results))
    return torch.tensor([tokens + [config.pad_token_id] * (width - len(tokens)) for tokens in results])


def assert_same_search(model, logits_of, num_beams: int) -> None:
    """Compares `generate`, under transformers' length penalty, to a search with the original's logits."""
    batch = source_batch(model)
    del batch["labels"]
    settings = {"num_beams": num_beams, "length_penalty_type": None, "length_penalty": 1.0}
    ours = model.generate(**batch, **settings, max_extra_tokens=None, max_length=16)
    theirs = plain_search(model, logits_of, num_beams)
    assert torch.equal(ours, theirs[:, : ours.shape[1]]), f"{ours}\n{theirs}"


def assert_same_first_loss(model, logits_of) -> None:
    """The loss of the way to train, before any update, is the original's cross-entropy."""
    batch = source_batch(model)
    batch["labels"][1, 6:] = -100
    inputs = decoder_inputs(model, batch["labels"]).masked_fill(
        decoder_inputs(model, batch["labels"]) == -100, model.config.pad_token_id
    )
    with torch.no_grad():
        ours = model(**batch, training_loss=TrainingLoss()).loss
        logits = logits_of(batch["input_ids"], batch["attention_mask"], inputs)
    theirs = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
