"""What every command writes."""

import json
import math

import pytest

from gradguard.output import as_json


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinity_is_read_back_from_json(value: float) -> None:
    assert float(json.loads(as_json([value]))[0]) == value


def test_nan_is_null_in_json() -> None:
    assert json.loads(as_json({"loss": (1.5, math.nan)})) == {"loss": [1.5, None]}
