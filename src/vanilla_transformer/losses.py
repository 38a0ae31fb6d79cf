"""Label-smoothed cross-entropy (section 5.4), from logits and, faster, from the states before them."""

import torch
from torch.nn import functional as F

IGNORE_INDEX = -100  # the label of padding


def label_smoothed_cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    label_smoothing: float = 0.0,
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """Cross-entropy with the mixture (1 - ε) · label + ε / |V| as the target, in nats per real token.

    Args:
        logits: `(..., vocabulary)`.
        labels: `(...)`, -100 where there is padding, which is left out.
        label_smoothing: ε.
        num_items_in_batch: what the sum is divided by: the real tokens of the whole update when gradients
            are accumulated or devices share it; None counts those of `labels`.
    """
    total = F.cross_entropy(
        logits.flatten(0, -2).float(),
        labels.flatten(),
        ignore_index=IGNORE_INDEX,
        label_smoothing=label_smoothing,
        reduction="sum",
    )
    return total / _count(labels, num_items_in_batch)


def linear_cross_entropy(
    states: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    label_smoothing: float = 0.0,
    num_items_in_batch: torch.Tensor | int | None = None,
    r_drop: float = 0.0,
) -> torch.Tensor:
    """`label_smoothed_cross_entropy(states @ weight.T, labels, …)` without ever holding all the logits.

    Args:
        states: `(tokens, width)`.
        weight: the output projection, `(vocabulary, width)`.
        labels: `(tokens,)`.
        r_drop: α; if it is not 0, the second half of the tokens are the first half once more, passed with
            other dropout, and α · `r_drop_divergence` of the two is added to the sum that is divided.
    """
    real = labels != IGNORE_INDEX
    if not real.all():
        states, labels = states[real], labels[real]
    if torch.is_grad_enabled() or r_drop:
        total = _LinearCrossEntropy.apply(states, weight, labels, label_smoothing, r_drop)
    else:
        total = sum(
            label_smoothed_cross_entropy(part @ weight.T, right, label_smoothing, num_items_in_batch=1)
            for part, right in zip(
                states.split(_LinearCrossEntropy.CHUNK), labels.split(_LinearCrossEntropy.CHUNK), strict=True
            )
        )
    return total / _count(labels, num_items_in_batch)


def r_drop_divergence(
    logits: torch.Tensor,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """How far two passes over one batch, which differ by their dropout, disagree, in nats per real token.

    That is ½ (KL(P1 ‖ P2) + KL(P2 ‖ P1)), the regulariser of R-Drop (Liang et al. 2021, arXiv 2106.14448).

    Args:
        logits: `(2 · batch, ..., vocabulary)`, those of the second pass after those of the first.
        labels: `(2 · batch, ...)`, -100 where there is padding, which is left out.
        num_items_in_batch: what the sum is divided by, the tokens of one pass; None counts them.
    """
    labels = labels.chunk(2)[0]
    real = labels != IGNORE_INDEX
    first, second = (half[real].float().log_softmax(-1) for half in logits.chunk(2))  # (tokens, vocabulary)
    divergence = (first.exp() - second.exp()) * (first - second) / 2
    return divergence.sum() / _count(labels, num_items_in_batch)


def _count(labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None) -> torch.Tensor | int:
    if num_items_in_batch is None:
        return (labels != IGNORE_INDEX).sum().clamp(min=1)
    return num_items_in_batch


class _LinearCrossEntropy(torch.autograd.Function):
    """Takes the gradient chunk by chunk while the chunk's logits are at hand; backward only scales it.

    With R-Drop a chunk holds both passes of its tokens, in turn.
    """

    CHUNK = 512  # rows of logits held at a time: enough work for the cores, little enough for their cache
    CHUNK_ON_GPU = 8192  # a GPU takes longer to start work than to do it; fewer of a large vocabulary

    @staticmethod
    def forward(ctx, states, weight, labels, label_smoothing, r_drop):
        device = states.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
        vocabulary = weight.to(dtype)
        right_share, other_share = 1 - label_smoothing, label_smoothing / weight.shape[0]  # 1 - ε, ε / |V|
        total = torch.zeros((), dtype=torch.float32, device=states.device)
        states_gradient = torch.empty_like(states)
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32)
        rows_at_once = _LinearCrossEntropy.CHUNK
        if device != "cpu":
            pairs_in_a_gibibyte = 2**28 // (2 * len(weight))
            rows_at_once = min(_LinearCrossEntropy.CHUNK_ON_GPU, max(2, 2 * pairs_in_a_gibibyte))
        places = torch.arange(len(labels), device=labels.device)
        if r_drop:
            places = torch.stack(places.split(len(labels) // 2), dim=1).flatten()
        with torch.autocast(device, enabled=False):
            for rows in places.split(rows_at_once):
                chunk, right = states[rows].to(dtype), labels[rows]
                number = torch.arange(len(rows), device=rows.device)
                # One tensor is in turn the logits, their exponentials, the softmax and the gradient.
                logits = (chunk @ vocabulary.T).float()  # (rows, vocabulary)
                total -= right_share * logits[number, right].sum() + other_share * logits.sum()
                largest = logits.amax(-1, keepdim=True)
                logits.sub_(largest)
                gap = logits[::2] - logits[1::2] if r_drop else None
                exponentials = logits.exp_()
                normaliser = exponentials.sum(-1, keepdim=True)
                total += (normaliser.log() + largest).sum()
                probabilities = exponentials.div_(normaliser)
                if r_drop:
                    gap -= normaliser[::2].log() - normaliser[1::2].log()  # log P1 - log P2
                    divergence, pull = _r_drop_gradient(probabilities, gap)
                    total += r_drop * divergence
                    gradient = probabilities.add_(pull, alpha=r_drop).sub_(other_share)
                else:
                    gradient = probabilities.sub_(other_share)
                gradient[number, right] -= right_share
                gradient = gradient.to(dtype)
                states_gradient[rows] = (gradient @ vocabulary).to(states.dtype)
                weight_gradient += gradient.T @ chunk
        ctx.save_for_backward(states_gradient, weight_gradient.to(weight.dtype))
        return total

    @staticmethod
    def backward(ctx, gradient):
        states_gradient, weight_gradient = ctx.saved_tensors
        return gradient * states_gradient, gradient * weight_gradient, None, None, None


def _r_drop_gradient(probabilities: torch.Tensor, gap: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """½ (KL(P1 ‖ P2) + KL(P2 ‖ P1)), summed over tokens, and its gradient by the logits of both.

    Args:
        probabilities: `(2 · tokens, vocabulary)`, P1 and P2 of each token in turn.
        gap: log P1 - log P2, `(tokens, vocabulary)`.
    """
    gradient = torch.empty_like(probabilities)
    divergence = 0
    for one, two, towards in ((0, 1, 1), (1, 0, -1)):
        mine, other, part = probabilities[one::2], probabilities[two::2], gradient[one::2]
        # By my logits, KL(mine ‖ other) has the gradient P (log P - log Q - KL), KL(other ‖ mine) P - Q.
        torch.mul(mine, gap, out=part).mul_(towards)
        kl = part.sum(-1, keepdim=True)
        part.addcmul_(mine, 1 - kl).sub_(other).div_(2)
        divergence = divergence + kl.sum() / 2
    return divergence, gradient
