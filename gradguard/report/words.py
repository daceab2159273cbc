"""Facts, findings and layers in words, the same in the terminal and on the page."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import takewhile

import numpy as np

from gradguard.report.facts import Facts, ParameterFacts, facts
from gradguard.report.runs import Found, Run

_VERSION = re.compile(r"version_\d+")

# What a line may end with: a word, and what stands behind it; a piece of a long word.
_PART = re.compile(r"[^\s/.,=(]*(?:[\s/.,=(]+|$)")
_PIECE = re.compile(r"[^_-]*(?:[_-]+|$)")


def number(value: float) -> str:
    """Return four digits of a number; "-" for NaN, which stands for "there is none"."""
    return "-" if np.isnan(value) else f"{value:.4g}"


def fact_rows(runs: list[Run]) -> dict[str, list[str]]:
    """Return every fact by name, in words, one for each run."""
    columns = [_in_words(run, facts(run.recording)) for run in runs]
    rows = {name: [column[name] for column in columns] for name in columns[0]}
    if rows["total after, largest"] == rows["total before, largest"]:
        del rows["total after, largest"]
    return {
        name: values
        for name, values in rows.items()
        if any(value != _NOTHING.get(name) for value in values)
    }


# Facts of which there is nothing to say where all runs have this.
_NOTHING = {
    "optimizer": "",
    "clipped": "never",
    "coefficient, smallest": "1",
    "non-finite steps": "0",
    "non-finite loss": "never",
    "overflow steps": "0",
    "skipped by the scaler": "0",
    "refused by gradguard": "0",
}


def short_labels(runs: Sequence[Run]) -> dict[Run, str]:
    """Return the labels without what tells no run from another.

    That is "/version_0" where a run is its directory's only one, and where all are from.
    """
    parents = Counter(run.label.rpartition("/")[0] for run in runs)
    kept = {}
    for run in runs:
        parent, _, last = run.label.rpartition("/")
        alone = _VERSION.fullmatch(last) and parent and parents[parent] == 1
        kept[run] = (parent if alone else run.label).split("/")
    levels = zip(*kept.values(), strict=False)
    common = sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, levels))
    return {
        run: "/".join(parts[min(common, len(parts) - 1) :])
        for run, parts in kept.items()
    }


def folded(text: str, width: int) -> str:
    r"""Return a text in lines that are broken behind its parts, words only if they must.

    Examples:
        >>> folded("model.encoder.layers.7.weight", 16)
        'model.encoder.\nlayers.7.weight'
    """
    lines = [""]
    parts = (
        piece
        for part in _PART.findall(text)
        for piece in (_PIECE.findall(part) if len(part) > width else [part])
    )
    for part in parts:
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > width:
            lines[-1] = lines[-1].rstrip()
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _in_words(run: Run, known: Facts) -> dict[str, str]:
    return {
        "optimizer": run.optimizer,
        "parameters": str(known.parameters),
        "steps": _steps(known),
        "loss": _losses(known),
        "clipping": clipping(run),
        "clipped": _clipped(run, known),
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
    """Return what clips, and what did from a later step on, in few words."""
    return run.recording.clipping_brief


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


def _clipped(run: Run, known: Facts) -> str:
    if not known.clip_fraction and clipping(run) == "none":
        return "never"
    return f"{known.clip_fraction:.1%} of steps"


def _losses(known: Facts) -> str:
    if np.isnan(known.loss_first):
        return "never finite" if known.loss_known else "not known"
    return f"{number(known.loss_first)} first, {number(known.loss_last)} last"


def _loss(known: Facts) -> str:
    if not known.loss_known:
        return "not known"
    step = known.first_nonfinite_loss
    return "never" if step is None else f"from step {step}"
