"""How often the diagnosis is right: what it finds in every kind of run, over seeds.

    python benchmarks/false_alarms.py --seeds 20

Prints Markdown tables: in how many of the runs each finding was made, by severity, where
errors and warnings in the healthy half are false alarms; and in how many the early signs
of an explosion that the sources name were there, beside the rule of `exploding`.
"""

import argparse
from collections import Counter
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from gradguard.experiments.resolve import resolve
from gradguard.experiments.run import run
from gradguard.health.diagnosis import diagnose
from gradguard.records.recording import Recording


class Case(NamedTuple):
    """A bundled experiment, and what is changed in it."""

    config: str
    changes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ", ".join((self.config, *self.changes))


HEALTHY = (
    Case("mlp-norm"),
    Case("mlp-norm-per-parameter"),
    Case("mlp-norm-value"),
    Case("mlp-value-norm"),
    Case("mlp-value"),
    Case("mlp-scaled-target"),
    Case("mlp", ("model.lr=0.001",)),
    Case("mlp", ("model.optimizer=adam",)),
    Case("deep-mlp-healthy"),
    Case("deep-mlp-cured"),
    Case("deep-mlp-shortcut"),
    Case("deep-mlp-healthy", ("model.activation=tanh", "model.init=glorot")),
    Case("circles-relu"),
    Case("circles-tanh"),
    Case("circles-batch-norm"),
    Case("circles-3-layer-relu"),
    Case("srn-cured"),
    Case("srn-per-parameter"),
    Case("srn-length-5"),
    Case("srn", ("model.reduction=mean",)),
)
SICK = (
    Case("mlp-exploding", ("trainer.max_epochs=3",)),
    Case("deep-mlp-exploding", ("trainer.max_epochs=3",)),
    Case("srn-exploding"),
    Case("srn-length-5-exploding"),
    Case("srn", ("clip=[{norm: 100}]",)),
    Case("srn", ("model.cell=gru",)),
    Case("deep-mlp-vanishing"),
    Case("circles-sigmoid"),
    Case("circles-5-layer-sigmoid"),
    Case("deep-mlp-exploding-at-init"),
    Case(
        "deep-mlp-healthy",
        ("model.depth=50", "model.init=glorot", "trainer.max_epochs=5"),
    ),
)


def main() -> None:
    """Run every case with every seed and print what was found."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--seeds", type=int, default=20, help="runs of each case")
    seeds = range(options.parse_args().seeds)
    found: list[str] = []
    signs: list[str] = []
    for title, cases in (("Healthy or cured", HEALTHY), ("Sick", SICK)):
        found += [f"\n| {title} | Runs | Errors | Warnings | Notes |", "|---|" * 5]
        signs += [f"\n| {title} | {' | '.join(SIGNS)} |", "|---|" * (1 + len(SIGNS))]
        for case in cases:
            runs = [recorded(case, seed) for seed in seeds]
            found.append(findings_row(case, runs))
            signs.append(signs_row(case, runs))
    # Last, for every run has drawn its own progress bar.
    print("\n".join(found + signs).replace("||", "|"))


def recorded(case: Case, seed: int) -> Recording:
    """Train once, and return what was recorded."""
    with TemporaryDirectory() as directory:
        experiment = resolve(
            config=case.config,
            assignments=[*case.changes, f"seed={seed}", "trainer.log_every_n_steps=50"],
            values={"log_dir": directory},
        )
        outcome = run(experiment)
        assert outcome is not None  # one process
        return outcome.recording


def findings_row(case: Case, runs: list[Recording]) -> str:
    """Return a table's row: by severity, the kinds found and in how many runs."""
    diagnoses = [diagnose(recording) for recording in runs]
    cells = []
    for severity in ("error", "warning", "note"):
        counts = Counter(
            kind
            for found in diagnoses
            for kind in dict.fromkeys(
                one.kind for one in found if one.severity == severity
            )
        )
        cells.append(
            ", ".join(f"{kind} {n}" for kind, n in counts.most_common()) or "-"
        )
    return f"| {case} | {len(runs)} | {' | '.join(cells)} |"


def signs_row(case: Case, runs: list[Recording]) -> str:
    """Return a table's row: in how many runs each early sign was there."""
    cells = [str(sum(sign(recording) for recording in runs)) for sign in SIGNS.values()]
    return f"| {case} | {' | '.join(cells)} |"


def doubles(recording: Recording) -> bool:
    """Whether the total doubles three steps running."""
    totals = recording.records.total_before
    with np.errstate(invalid="ignore"):
        twice = totals[1:] >= 2 * totals[:-1]
    return bool((twice[2:] & twice[1:-1] & twice[:-2]).any())


def fifty_times(recording: Recording) -> bool:
    """Whether the total is ever fifty times the first."""
    totals = recording.records.total_before
    return bool((totals > 50 * totals[0]).any())


def runs_away(recording: Recording) -> bool:
    """Whether `exploding` is found, if only as a note."""
    return any(found.kind == "exploding" for found in diagnose(recording))


SIGNS: dict[str, Callable[[Recording], bool]] = {
    "doubles three times running": doubles,
    "50 x the first": fifty_times,
    "rises three times running to 10 x all before": runs_away,
}


if __name__ == "__main__":
    main()
