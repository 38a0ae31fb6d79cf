"""The check of outputs: who computes something else is not measured beside the others."""

import math

from .peers import OWN_WEIGHTS, REDUCED
from .work import Row

LOSS_TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}  # relative
FLAT = 0.2  # how far, relatively, the loss of random weights may be from that of a uniform guess
SAME, SIMILAR = 0.98, 0.5  # least share of equal tokens in fp32 and in reduced precision


class OutputsDiffer(Exception):
    """The message names the row, the peer and the values."""


def check_outputs(row: Row, outputs: dict[str, dict]) -> dict[str, float]:
    """Compare with the reference; return each peer's share of equal tokens, or its relative difference.

    Raises:
        OutputsDiffer: a peer with the same weights has another loss or other tokens; one with weights of its
            own has a loss far from ln V, or outputs of another length.
    """
    agreement = {}
    expected = outputs.get(row.reference)
    for name, found in outputs.items():
        if name in OWN_WEIGHTS:
            check_alone(row, name, found)
        elif expected is not None:
            agreement[name] = compare(row, name, found, expected)
    return agreement


def compare(row: Row, name: str, found: dict, expected: dict) -> float:
    if "tokens" in found:
        shape, wanted = (list(map(len, rows["tokens"])) for rows in (found, expected))
        if shape != wanted:
            raise OutputsDiffer(f"{row.name}: {name} wrote {shape} tokens, {row.reference} {wanted}")
        pairs = [pair for rows in zip(found["tokens"], expected["tokens"]) for pair in zip(*rows)]
        share = sum(one == other for one, other in pairs) / len(pairs)
        least = SIMILAR if name in REDUCED or row.work.dtype != "fp32" else SAME
        if share < least:
            same = f"{share:.1%} of the tokens of {name} are those of {row.reference}"
            raise OutputsDiffer(f"{row.name}: {same}, and {least:.0%} must be")
        return share
    (kind,) = found
    ones, others = (
        [values] if isinstance(values, float) else values for values in (found[kind], expected[kind])
    )
    difference = max(abs(one - other) / abs(other) for one, other in zip(ones, others, strict=True))
    if not difference <= LOSS_TOLERANCE[row.work.dtype]:
        raise OutputsDiffer(
            f"{row.name}: the {kind} of {name} differs from {row.reference} by {difference:.2%}"
        )
    return difference


def check_alone(row: Row, name: str, found: dict) -> None:
    uniform, work = math.log(row.work.size.vocabulary), row.work
    if "loss" in found and not abs(found["loss"] / uniform - 1) < FLAT:
        raise OutputsDiffer(f"{row.name}: the loss of {name} is {found['loss']:.3f}, far from {uniform:.3f}")
    if "tokens" in found and {len(tokens) for tokens in found["tokens"]} != {work.target[1]}:
        raise OutputsDiffer(f"{row.name}: {name} did not write {work.target[1]} tokens for every sentence")
