"""Label-smoothed cross-entropy (section 5.4) and R-Drop, from logits or from the states before them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from .products import Linear, product

IGNORE_INDEX = -100  # the label of padding


@dataclass(frozen=True)
class TrainingLoss:
    """The loss that a language-model head returns in training, where it skips padding and unused logits.

    Args:
        smoothing: ε of label smoothing (section 5.4).
        r_drop: α of R-Drop (Liang et al. 2021): dropout differs between two passes over one batch, and α/2
            times the divergence of their predictions is added to the mean loss of both. 0 makes one pass.

    Example:
        >>> training_loss = TrainingLoss(smoothing=0.1)
        >>> loss = model(**training_loss.doubled(batch), training_loss=training_loss).loss
    """

    smoothing: float = 0.0
    r_drop: float = 0.0

    def doubled(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """The batch; with `r_drop`, the batch with each tensor twice along its first dimension."""
        if not self.r_drop:
            return inputs
        return {
            name: torch.cat([value, value]) if torch.is_tensor(value) else value
            for name, value in inputs.items()
        }


def count_items(
    labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None, doubled: bool = False
) -> torch.Tensor | int:
    """The number that a summed loss is divided by.

    Args:
        labels: of the batch, which `TrainingLoss.doubled` may have doubled.
        num_items_in_batch: labelled tokens or examples of the whole update in one pass, when gradients are
            accumulated or devices share the update; None counts those of `labels`.
        doubled: whether the loss is summed over two passes.
    """
    if num_items_in_batch is None:
        return (labels != IGNORE_INDEX).sum().clamp(min=1)
    return 2 * num_items_in_batch if doubled else num_items_in_batch


def share_of_update(
    loss: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None
) -> torch.Tensor:
    """The mean loss of a batch as its part of the mean over the whole update; see `count_items`."""
    return loss if num_items_in_batch is None else loss * count_items(labels, None) / num_items_in_batch


def label_smoothed_cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    label_smoothing: float = 0.0,
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """Cross-entropy with the mixture (1 - ε) · label + ε / |V| as the target, in nats per real token.

    Args:
        logits: `(..., vocabulary)`.
        labels: `(...)`; -100 is ignored.
        label_smoothing: ε.
        num_items_in_batch: see `count_items`.
    """
    total = F.cross_entropy(
        logits.flatten(0, -2).float(),
        labels.flatten(),
        ignore_index=IGNORE_INDEX,
        label_smoothing=label_smoothing,
        reduction="sum",
    )
    return total / count_items(labels, num_items_in_batch)


def linear_cross_entropy(
    states: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    training_loss: TrainingLoss,
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """The training loss of `states @ weight.T`, which holds only a chunk of the logits at a time.

    Args:
        states: `(tokens, width)`; with R-Drop the second half are the tokens of the second pass.
        weight: the output projection, `(vocabulary, width)`.
        labels: `(tokens,)`; tokens with the label -100 cost nothing.
        num_items_in_batch: see `count_items`.
    """
    smoothing, r_drop = training_loss.smoothing, training_loss.r_drop
    real = labels != IGNORE_INDEX
    if not real.all():
        states, labels = states[real], labels[real]
    if torch.is_grad_enabled() or r_drop:
        total = _LinearCrossEntropy.apply(states, weight, labels, smoothing, r_drop)
    else:
        chunks = zip(states.split(_LinearCrossEntropy.CHUNK), labels.split(_LinearCrossEntropy.CHUNK))
        total = sum(
            label_smoothed_cross_entropy(product(chunk, weight), target, smoothing, num_items_in_batch=1)
            for chunk, target in chunks
        )
    return total / count_items(labels, num_items_in_batch, doubled=bool(r_drop))


def require_labels(labels: torch.Tensor | None) -> torch.Tensor:
    if labels is None:
        raise ValueError("training_loss needs labels: pass labels=… with it")
    return labels


def is_plain_projection(module: nn.Module) -> bool:
    """Whether the module does nothing but `states @ weight.T + bias`: no adapter, hook or parametrization."""
    return (
        type(module) in (nn.Linear, Linear)
        and type(module.weight) is nn.Parameter
        and "forward" not in vars(module)  # accelerate wraps it
        and not (module._forward_hooks or module._forward_pre_hooks)
        and not (module._backward_hooks or module._backward_pre_hooks)
    )


def projection_cross_entropy(
    states: torch.Tensor,
    project: nn.Module,
    labels: torch.Tensor,
    training_loss: TrainingLoss,
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """`linear_cross_entropy` of a plain projection; any other one is called, so that its parts learn."""
    if is_plain_projection(project):
        weight, bias = cast("tuple[torch.Tensor, torch.Tensor | None]", (project.weight, project.bias))
        if bias is not None:  # one more column, whose input is 1; widths of a multiple of 8 are fast
            states, weight = F.pad(states, (0, 8), value=1.0), torch.cat([weight, bias[:, None]], dim=1)
            weight = F.pad(weight, (0, 7))
        return linear_cross_entropy(states, weight, labels, training_loss, num_items_in_batch)
    real = labels != IGNORE_INDEX
    states, labels = states[real], labels[real]
    logits = project(states)
    total = label_smoothed_cross_entropy(logits, labels, training_loss.smoothing, num_items_in_batch=1)
    loss = total / count_items(labels, num_items_in_batch, doubled=bool(training_loss.r_drop))
    if training_loss.r_drop:
        loss = loss + training_loss.r_drop * r_drop_divergence(logits, labels, num_items_in_batch)
    return loss


def r_drop_divergence(
    logits: torch.Tensor,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """The term that R-Drop (Liang et al. 2021, arXiv 2106.14448) multiplies by α and adds to the loss.

    This is ½ (KL(P1 ‖ P2) + KL(P2 ‖ P1)) summed over the tokens and divided by those of both passes, as the
    cross-entropy of a doubled batch is.

    Args:
        logits: `(2 · batch, ..., vocabulary)`, those of the second pass after those of the first.
        labels: `(2 · batch, ...)`; -100 is ignored.
        num_items_in_batch: see `count_items`.
    """
    real = labels.chunk(2)[0] != IGNORE_INDEX
    first, second = (half[real].float().log_softmax(-1) for half in logits.chunk(2))  # (tokens, vocabulary)
    divergence = (first.exp() - second.exp()) * (first - second) / 2
    return divergence.sum() / count_items(labels, num_items_in_batch, doubled=True)


class _LinearCrossEntropy(torch.autograd.Function):
    """Computes the gradient of each chunk while its logits are in memory; backward only scales it.

    With R-Drop the rows of a chunk alternate between the two passes.
    """

    CHUNK = 512  # rows of logits in memory at a time: enough work for fast products
    CACHED = 2**17  # logits in the cache of a core
    CHUNK_ON_GPU = 8192  # fewer launches; a large vocabulary gets fewer rows

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        labels: torch.Tensor,
        smoothing: float,
        r_drop: float,
    ) -> torch.Tensor:
        device = states.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
        vocabulary = weight.to(dtype)
        total = torch.zeros((), dtype=torch.float32, device=states.device)
        states_gradient = torch.empty_like(states)
        weight_gradient: torch.Tensor | None = None
        rows_at_once = _LinearCrossEntropy.CHUNK
        rows_in_cache = 2 * max(1, _LinearCrossEntropy.CACHED // (2 * len(weight)))
        if device != "cpu":
            pairs_in_a_gibibyte = 2**28 // (2 * len(weight))
            rows_at_once = min(_LinearCrossEntropy.CHUNK_ON_GPU, max(2, 2 * pairs_in_a_gibibyte))
            rows_in_cache = rows_at_once
        order = torch.arange(len(labels), device=labels.device)
        if r_drop:
            order = torch.stack(order.split(len(labels) // 2), dim=1).flatten()
        with torch.autocast(device, enabled=False):
            for rows in order.split(rows_at_once):
                chunk, target = states[rows].to(dtype), labels[rows]
                # One tensor holds the logits, then the gradient. The steps between them take rows that fit
                # into the cache, because each step reads and writes all of its rows.
                gradient = product(chunk, vocabulary)  # (rows, vocabulary)
                for part, labels_of_part in zip(gradient.split(rows_in_cache), target.split(rows_in_cache)):
                    logits = part.float()
                    total += _to_gradient(logits, labels_of_part, smoothing, r_drop)
                    part.copy_(logits)
                states_gradient[rows] = product(gradient, vocabulary.T).to(states.dtype)
                of_chunk = product(gradient.T, chunk.T)
                weight_gradient = (
                    of_chunk.float() if weight_gradient is None else weight_gradient.add_(of_chunk)
                )
        ctx.save_for_backward(states_gradient, cast("torch.Tensor", weight_gradient).to(weight.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        states_gradient, weight_gradient = ctx.saved_tensors
        return gradient * states_gradient, gradient * weight_gradient, None, None, None


def _to_gradient(logits: torch.Tensor, labels: torch.Tensor, smoothing: float, r_drop: float) -> torch.Tensor:
    """Returns the loss of the logits, summed over the rows, and overwrites the logits with its gradient.

    The target is (1 - ε) · label + ε / |V|. With R-Drop, rows alternate between the two passes.
    """
    label_share, other_share = 1 - smoothing, smoothing / logits.shape[1]
    row = torch.arange(len(logits), device=logits.device)
    loss = -label_share * logits[row, labels].sum()
    if smoothing:
        loss -= other_share * logits.sum()
    largest = logits.amax(-1, keepdim=True)
    logits.sub_(largest)
    gap = logits[::2] - logits[1::2] if r_drop else None
    exponentials = logits.exp_()
    normaliser = exponentials.sum(-1, keepdim=True)
    loss += (normaliser.log() + largest).sum()
    probabilities = exponentials.div_(normaliser)
    if gap is not None:
        gap -= normaliser[::2].log() - normaliser[1::2].log()  # log P1 - log P2
        divergence, pull = _r_drop_gradient(probabilities, gap)
        loss += r_drop * divergence
        probabilities.add_(pull, alpha=r_drop)
    gradient = probabilities.sub_(other_share) if smoothing else probabilities
    gradient[row, labels] -= label_share
    return loss


def _r_drop_gradient(probabilities: torch.Tensor, gap: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """½ (KL(P1 ‖ P2) + KL(P2 ‖ P1)), summed over the tokens, and its gradient with respect to the logits.

    Args:
        probabilities: `(2 · tokens, vocabulary)`; rows alternate between P1 and P2.
        gap: log P1 - log P2, `(tokens, vocabulary)`.
    """
    gradient = torch.empty_like(probabilities)
    divergence = probabilities.new_zeros(())
    for this, that, sign in ((0, 1, 1), (1, 0, -1)):
        p, q, part = probabilities[this::2], probabilities[that::2], gradient[this::2]
        # The gradients with respect to the logits of P: of KL(P ‖ Q), P (log P - log Q - KL); of
        # KL(Q ‖ P), P - Q.
        torch.mul(p, gap, out=part).mul_(sign)
        kl = part.sum(-1, keepdim=True)
        part.addcmul_(p, 1 - kl).sub_(q).div_(2)
        divergence = divergence + kl.sum() / 2
    return divergence, gradient
