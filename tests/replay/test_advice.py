"""What to try fits what broke."""

import pytest

from gradguard.replay.advice import operation_advice, tensor_advice
from gradguard.replay.cause import Direction, Kind


def advised(
    *names: str,
    direction: Direction = "forward",
    scaled: bool = False,
    hidden: bool = False,
    narrow: str | None = None,
) -> str:
    return operation_advice(
        names, direction, scaled=scaled, hidden=hidden, narrow=narrow
    )


@pytest.mark.parametrize(
    ("name", "direction", "said"),
    [
        ("log", "forward", "x.clamp_min(eps).log()"),
        ("exp", "forward", "logsumexp"),
        ("div", "forward", "denominator"),
        ("div", "backward", "denominator"),
        ("sqrt", "forward", "at zero or above"),
        ("sqrt", "backward", "eps inside of the root"),
        ("acosh", "backward", "x.clamp_min(1 + eps)"),
        ("atanh", "backward", "open interval"),
        ("softmax", "forward", "masked out whole"),
        ("var", "forward", "drop_last=True"),
        ("cross_entropy", "forward", "no target counts"),
        ("Own", "forward", "range of its inputs"),
        ("Own", "backward", "slope is not finite"),
    ],
)
def test_advice_is_by_operation(name: str, direction: Direction, said: str) -> None:
    assert said in advised(name, direction=direction)


def test_kernel_advises_where_the_call_has_no_advice_of_its_own() -> None:
    assert advised("gaussian_nll_loss", "log") == advised("log")


def test_what_hides_the_value_comes_before_the_operation() -> None:
    assert "torch.where and masks hide its value" in advised("log", hidden=True)


def test_narrow_type_comes_before_the_operation() -> None:
    assert "too large for float16: use bf16" in advised("linear", narrow="float16")
    assert advised("exp", narrow="float32") == advised("exp")


def test_bfloat16_is_not_narrow_for_it_reaches_as_far_as_float32() -> None:
    assert advised("linear", narrow="bfloat16") == advised("linear")


def test_loss_scale_comes_first() -> None:
    assert "loss scale" in advised("linear", scaled=True, narrow="float16")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("weight", "older checkpoint"),
        ("buffer", "compute it anew"),
        ("batch", "dataset"),
        ("constant", "before the step"),
    ],
)
def test_advice_on_tensors_is_by_kind(kind: Kind, said: str) -> None:
    assert said in tensor_advice(kind)
