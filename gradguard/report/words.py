"""Facts, findings and layers in words, the same in the terminal and on the page."""

from collections.abc import Iterable

import numpy as np

from gradguard.report.facts import Facts, ParameterFacts, facts
from gradguard.report.runs import Found, Run


def number(value: float) -> str:
    """Return four digits of a number; "-" for NaN, which stands for "there is none"."""
    return "-" if np.isnan(value) else f"{value:.4g}"


def fact_rows(runs: list[Run]) -> dict[str, list[str]]:
    """Return every fact by name, in words, one for each run."""
    columns = [_in_words(run, facts(run.recording)) for run in runs]
    rows = {
        name: [column[name] for column in columns]
        for column in columns
        for name in column
    }
    if not any(rows["optimizer"]):
        del rows["optimizer"]
    return rows


def _in_words(run: Run, known: Facts) -> dict[str, str]:
    return {
        "optimizer": run.optimizer,
        "parameters": str(known.parameters),
        "steps": _steps(known),
        "clipping": clipping(run),
        "clipped": f"{known.clip_fraction:.1%} of steps",
        "total before, first": number(known.total_before_first),
        "total before, median": number(known.total_before_median),
        "total before, largest": _largest(
            known.total_before_largest,
            known.total_before_largest_step,
            known.total_before_largest_parameter,
        ),
        "total after, largest": _largest(
            known.total_after_largest,
            known.total_after_largest_step,
            known.total_after_largest_parameter,
        ),
        "coefficient, smallest": number(known.smallest_coefficient),
        "non-finite steps": _counted(known.nonfinite_steps, known.first_nonfinite_step),
        "non-finite loss": _loss(known),
        "overflow steps": str(known.overflow_steps),
        "skipped by the scaler": str(known.skipped_steps),
        "refused by gradguard": str(known.refused_steps),
    }


def clipping(run: Run) -> str:
    """Return what clips, and what did from a later step on, as one would write it in code."""
    return run.recording.clipping


def history(run: Run) -> list[str]:
    """Return a sentence on the steps that training went back behind, if it did."""
    return [run.recording.left_out] if run.recording.left_out else []


def left_out(found: Found) -> list[str]:
    """Return a sentence for each directory that could not be reported."""
    return [f"{directory} {reason}." for directory, reason in found.left_out]


def suggested(run: Run) -> str:
    """Return the suggested threshold and its reason, in a sentence."""
    max_norm, reason = run.suggestion.max_norm, run.suggestion.reason
    threshold = "none" if max_norm is None else f"max_norm {max_norm:.4g}"
    return f"Suggested threshold: {threshold}. {reason}"


NORM_HEADS = ("first", "last", "10 %", "median", "90 %", "largest")
MEAN_ABS_HEADS = ("first", "last", "last / first")


def norm_cells(row: ParameterFacts) -> list[str]:
    """Return a parameter's norms before clipping, in the order of NORM_HEADS."""
    return [
        f"{value:.2g}" if np.isfinite(value) else "-"
        for value in (
            row.before_first,
            row.before_last,
            row.before_10,
            row.before_50,
            row.before_90,
            row.before_largest,
        )
    ]


def mean_abs_cells(row: ParameterFacts) -> list[str]:
    """Return a parameter's mean |g| after clipping, in the order of MEAN_ABS_HEADS."""
    first, last = row.mean_abs_first, row.mean_abs_last
    ratio = last / first if first else np.nan
    return [number(value) for value in (first, last, ratio)]


def has_mean_abs(rows: Iterable[ParameterFacts]) -> bool:
    """Return whether mean |g| is known of some parameter."""
    return any(np.isfinite(row.mean_abs_first) for row in rows)


def _steps(known: Facts) -> str:
    last = known.last_step + 1
    if known.steps == last - known.first_step:
        return str(known.steps) + (
            f", from {known.first_step}" * bool(known.first_step)
        )
    return f"{known.steps} of {known.first_step} to {known.last_step}"


def _largest(total: float, step: int | None, parameter: str | None) -> str:
    if step is None:
        return number(total)
    return f"{number(total)}, step {step}, {parameter}"


def _counted(count: int, first: int | None) -> str:
    return f"{count}, from step {first}" if first is not None else str(count)


def _loss(known: Facts) -> str:
    if not known.loss_known:
        return "not known"
    step = known.first_nonfinite_loss
    return "never" if step is None else f"from step {step}"
