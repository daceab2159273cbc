"""What the norms of an untrained network mean, in sentences."""

import math
from collections.abc import Iterator

from gradguard.inspection.layers import Inspection

# Norms may differ this much from one end of a network to the other before it is said to
# vanish or explode: healthy ones differ by less than 100 (tanh and relu with the
# initialisation made for them, 4 to 50 layers), the others by more than 10000.
_HEALTHY = 1e3

# Below this `gradguard report` warns of vanishing gradients, too.
_SMALL = 1e-2


def sentences(inspection: Inspection) -> Iterator[str]:
    """Yield sentences on the loss, and on norms from layer to layer and through time."""
    yield f"loss {inspection.loss:.4g}: {inspection.loss_of}"
    yield _activations(inspection)
    if inspection.chain:
        yield from _depth(inspection)
    else:
        yield "no weights of one kind follow each other: no factor per layer"
    for recurrence in inspection.recurrences:
        yield (
            f"{recurrence.name}: spectral norm {recurrence.spectral_norm:.3g}, "
            + _through_time(recurrence.spectral_norm)
        )


def trend(over_depth: float) -> str:
    """Say what a ratio of norms, first layer over last, makes of a gradient."""
    if math.isnan(over_depth):
        return "unknown"
    if over_depth < _SMALL:
        return "vanishing towards the input"
    return "exploding towards the input" if over_depth > _HEALTHY else "steady"


def _activations(inspection: Inspection) -> str:
    bad = inspection.nonfinite_outputs
    if not bad:
        return "activations are finite"
    return f"activations are non-finite in {len(bad)} modules, first in {bad[0]}"


def _depth(inspection: Inspection) -> Iterator[str]:
    first, last = inspection.chain[0].name, inspection.chain[-1].name
    steps = len(inspection.chain) - 1
    yield f"per layer, from {last} to {first}:"
    if math.isnan(inspection.factor("norm_before")):
        yield "  weight gradients are zero or non-finite: no factor"
    for kind, name in (("norm_before", "weight"), ("signal_before", "output")):
        factor = inspection.factor(kind)
        if not math.isnan(factor):
            whole = factor**steps
            yield (
                f"  {name} gradients x{factor:.3g}: over {steps} layer{'s' * (steps > 1)} {whole:.2g}, "
                f"{trend(whole)}"
            )
    yield f"  for scale: 0.8^50 = {0.8**50:.2g}, 1.2^50 = {1.2**50:.0f}"
    yield (
        f"first / last: {inspection.layers[0].name} / {last} = "
        f"{inspection.first_to_last:.2g}"
    )


def _through_time(spectral_norm: float) -> str:
    # Pascanu et al., "On the difficulty of training recurrent neural networks", 2013:
    # with |tanh'| <= 1, below 1 is enough to vanish, above 1 is needed to explode.
    return (
        "gradients can grow in time" if spectral_norm > 1 else "gradients fade in time"
    )
