"""What gradguard costs, in the short form of the benchmarks: never in absolute time."""

import json
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

from tests.support import ROOT

BENCHMARKS = ROOT / "benchmarks"
# Twice the bars of 1.02 where gradguard clips and 1.03 where Lightning does: noise.
OWN, OBSERVED = 1.04, 1.06
TRIES = 3

pytestmark = pytest.mark.slow


def measured(script: str, *options: str) -> Any:
    """What a benchmark prints, with warnings as it finds them."""
    command = [sys.executable, str(BENCHMARKS / script), "--json", *options]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(run.stdout)


@cache
def overheads(attempt: int) -> dict[str, Any]:  # noqa: ARG001 (each has its own cache)
    """Rows of the deep MLP by arm; another attempt measures again."""
    options = ("--model", "deep-mlp", "--pairs", "7", "--quick", "--processes", "1")
    rows = measured(
        "overhead.py", *options, "--arms", "gradguard", "observed", "recipe"
    )
    return {row["arm"]: row for row in rows["results"]}


def excess(row: dict[str, Any]) -> float:
    """CPU time of the training thread beyond the baseline's, as a share of it."""
    return float(row["main"][0]) - 1


@pytest.mark.parametrize(("arm", "bar"), [("gradguard", OWN), ("observed", OBSERVED)])
def test_recording_every_step_costs_next_to_nothing(arm: str, bar: float) -> None:
    assert any(excess(overheads(n)[arm]) < bar - 1 for n in range(TRIES))


@pytest.mark.parametrize("arm", ["gradguard", "observed"])
def test_overhead_is_a_twentieth_of_the_documented_recipe(arm: str) -> None:
    assert any(
        20 * excess(overheads(n)[arm]) < excess(overheads(n)["recipe"])
        for n in range(TRIES)
    )


def test_memory_is_the_buffer_and_little_else() -> None:
    row = overheads(0)["gradguard"]

    assert row["memory"] <= 8 * row["tensors"] * 50 + 20 * 2**20


@pytest.mark.parametrize("parameters", [10, 1000])
def test_bytes_are_eight_per_parameter_and_step_and_little_else(
    parameters: int,
) -> None:
    options = ("--parameters", str(parameters), "--steps", "200", "700")
    short, long = measured("scale.py", *options)

    # The names, in every run once, are in both.
    written = 700 * long["bytes"] - 200 * short["bytes"]
    assert written / 500 <= 8 * parameters + 64


def test_bytes_do_not_grow_with_the_number_of_steps() -> None:
    short, long = measured("scale.py", "--parameters", "10", "--steps", "1000", "10000")

    assert long["bytes"] <= short["bytes"]
    assert long["grown_bytes"] < 8 * 2**20
