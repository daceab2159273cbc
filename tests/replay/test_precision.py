"""Whether the same step is finite in wider numbers."""

# Layers are called on every other line, which torch does not type.
# mypy: disable-error-code="no-any-return"

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gradguard.replay.cause import Precision
from gradguard.replay.precision import precision
from gradguard.replay.rerun import Batches, Rerun

X = torch.arange(1.0, 7.0).reshape(2, 3)


class Line(nn.Module):
    """A line of slope 1, and batch norm for its buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 3)
        nn.init.eye_(self.line.weight)
        nn.init.zeros_(self.line.bias)
        self.norm = nn.BatchNorm1d(3)


def judged(
    loss: Callable[[Line, Tensor], Tensor],
    *,
    autocast: torch.dtype | None = None,
    dtype: torch.dtype = torch.float32,
) -> Precision:
    module = Line().to(dtype)

    def step(batches: Batches) -> Tensor:
        with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
            value = loss(module, batches[0])
        value.backward()  # type: ignore[no-untyped-call]  # torch's
        return value

    return precision(Rerun(module, step, {0: X.to(dtype)}))


def test_logarithm_of_zero_is_of_its_values() -> None:
    found = judged(lambda m, x: (m.line(x) - 1).log().sum())

    assert (found.verdict, found.float32, found.float64) == ("values", False, False)
    assert "breaks in float64 as well" in found.sentence


@pytest.mark.parametrize("autocast", [torch.float16, None])
def test_overflow_of_float16_is_rounding(autocast: torch.dtype | None) -> None:
    def loss(module: Line, x: Tensor) -> Tensor:
        y = module.line(module.norm(x) * 1e5)
        return y.half().float().sum()

    found = judged(loss, autocast=autocast)

    assert (found.verdict, found.float32, found.float64) == ("rounding", True, True)
    assert (
        found.sentence
        == "it is finite in float32: range or rounding of float16 is at fault"
    )


def test_model_in_bfloat16_is_widened() -> None:
    def loss(module: Line, x: Tensor) -> Tensor:
        y = module.line(x) + 0.001 - module.line(x)  # 0 in bfloat16
        return (y / y).sum()

    found = judged(loss, dtype=torch.bfloat16)

    assert found.verdict == "rounding"
    assert "bfloat16" in found.sentence


def test_overflow_of_float32_is_rounding() -> None:
    found = judged(lambda m, x: (m.line(x) * 100).exp().log().sum())

    assert (found.verdict, found.float32, found.float64) == ("rounding", False, True)
    assert (
        found.sentence
        == "it is finite in float64: range or rounding of float32 is at fault"
    )


def test_overflow_of_float64_is_of_its_values() -> None:
    assert judged(lambda m, x: (m.line(x) * 1000).exp().sum()).verdict == "values"


def test_whole_numbers_stay_whole() -> None:
    def loss(module: Line, x: Tensor) -> Tensor:
        rows = torch.tensor([0, 1])
        return module.line(x)[rows].log().sum() / (rows.sum() - 1)

    assert judged(loss).verdict == "values"


def test_step_that_insists_on_its_dtype_is_told_so() -> None:
    def loss(module: Line, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            raise TypeError("float32, please")
        return module.line(x).sum() * torch.inf

    found = judged(loss)

    assert (found.verdict, found.float64) == ("unknown", None)
    assert found.sentence == "it cannot be run in float64: TypeError: float32, please"


def test_module_is_put_back() -> None:
    module = Line()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}

    def step(batches: Batches) -> Tensor:
        loss: Tensor = module.norm(module.line(batches[0])).log().sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        return loss

    precision(Rerun(module, step, {0: X}))

    after = module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {tensor.dtype for tensor in module.parameters()} == {torch.float32}
