"""Whether a claim holds, and which of our own bands its numbers have left."""

from collections.abc import Iterator

import numpy as np

from gradguard.reproduction.headings import HEADINGS, written
from gradguard.reproduction.study import Band, OneSeed, Results, Study


def spread(results: Results, *, trial: str, number: str) -> str:
    """Return "median [min, max]" over seeds, the value where all agree, "" for none."""
    runs = [run.numbers for run in results[trial].values()]
    if not all(number in numbers for numbers in runs):
        return ""
    values = [numbers[number] for numbers in runs]
    if any(np.isnan(values)):
        texts = {written(number, value) for value in values}
        return "nan" if len(texts) == 1 else f"nan in {np.isnan(values).sum()}"
    median, *ends = (
        written(number, value)
        for value in (np.median(values), min(values), max(values))
    )
    return median if len({*ends}) == 1 else f"{median} [{', '.join(ends)}]"


def verdict(study: Study, results: Results) -> str:
    """Return whether the claim holds: "yes", "no", or "in 3 of 5 seeds"."""
    seeds = _by_seed(results)
    bands = [band for band in study.expected if band.trials <= set(results)]
    held = sum(all(band.holds(runs) for band in bands) for runs in seeds.values())
    if held in (0, len(seeds)):
        return "yes" if held else "no"
    return f"in {held} of {len(seeds)} seeds"


def against(study: Study, results: Results) -> list[str]:
    """Return a sentence for each band of the claim that does not hold in every seed."""
    return [
        f"{band.trial}: {HEADINGS[band.number]} is "
        f"{spread(results, trial=band.trial, number=band.number)}, where the claim "
        f"means {band.range}."
        for band in study.expected
        if band.trials <= set(results)
        and not all(band.holds(runs) for runs in _by_seed(results).values())
    ]


def left(study: Study, results: Results) -> list[str]:
    """Return a sentence for each of our own bands and each seed outside the band."""
    return [
        sentence for band in study.bands for sentence in _left(band, study, results)
    ]


def _left(band: Band, study: Study, results: Results) -> Iterator[str]:
    for seed, runs in _by_seed(results).items():
        if not band.holds(runs):
            value = written(band.number, runs[band.trial].numbers[band.number])
            yield (
                f"{study.name}, {band.trial}, seed {seed}: {HEADINGS[band.number]} is "
                f"{value}, and our band is {band.range}"
            )


def _by_seed(results: Results) -> dict[int, OneSeed]:
    """Return the runs of each seed, by label."""
    seeds = next(iter(results.values()))
    return {seed: {label: results[label][seed] for label in results} for seed in seeds}
