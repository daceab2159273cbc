"""A dump goes in, and what broke its step comes out, wherever between loss and update."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typing_extensions import override

from gradguard import replay
from tests.support.dumps import BAD_SAMPLE, Logarithm, dumped

pytestmark = pytest.mark.filterwarnings("ignore:update skipped:UserWarning")


class ToUnitLength(Logarithm):
    """Divides gradients by their norm, which is zero for a batch that teaches nothing."""

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss: Tensor = (self.line(batch) * batch.min(dim=-1, keepdim=True).values).sum()
        return loss * bool((batch != 0).all())

    def normalize(self) -> None:
        for parameter in self.parameters():
            assert parameter.grad is not None
            parameter.grad /= parameter.grad.norm()


class BeforeStep(ToUnitLength):
    @override
    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.normalize()


class AsClip(ToUnitLength):
    @override
    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        self.normalize()


class ByHand(Logarithm):
    """Its own loop, with an optimizer that has a state."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()

    @override
    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters())


class OwnGenerator(Logarithm):
    """Draws which sample is zero from a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(1)

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        drawn = torch.rand(len(batch), 1, generator=self.generator)
        return super().training_step(batch.clamp_min(0.5) * (drawn > 0.05), batch_idx)


@pytest.mark.parametrize("kind", [BeforeStep, AsClip])
def test_hook_of_the_update_that_breaks_gradients_is_named(
    tmp_path: Path, kind: type[ToUnitLength]
) -> None:
    found = replay(dumped(tmp_path, kind()), kind())

    assert found.reproduced
    assert found.cause is not None
    assert found.cause.name == "div"
    assert found.cause.line is not None
    assert found.cause.line.text == "parameter.grad /= parameter.grad.norm()"


def test_step_of_an_optimizer_with_a_state_is_run_in_float64(tmp_path: Path) -> None:
    found = replay(dumped(tmp_path, ByHand()), ByHand())

    assert found.precision is not None
    assert found.precision.verdict == "values"
    assert found.samples is not None
    assert [sample.index for sample in found.samples.culprits] == [BAD_SAMPLE]


def test_generator_of_the_modules_own_is_told_and_draws_alike_in_every_run(
    tmp_path: Path,
) -> None:
    found = replay(dumped(tmp_path, OwnGenerator()), OwnGenerator())

    assert "generators of its own (generator)" in " ".join(found.notes)
    assert (found.precision is None) == (found.cause is None)
