"""What recording every parameter on every step costs, against Lightning's clip alone.

    python benchmarks/overhead.py                      # Markdown, to paste into the docs
    python benchmarks/overhead.py --model srn --arms gradguard observed --pairs 15
    python benchmarks/overhead.py --quick --json

All arms clip at every step, by the same threshold, and log to TensorBoard every 50 steps.
A ratio is arm / baseline of one pair of blocks of steps; shown are the median of all pairs
and, in brackets, the quartiles. Where memory happens to lie is worth some percent and is
drawn anew in each process, so the pairs are spread over several. The row `lightning` is the
baseline against itself.
"""

import json
import os
import platform
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from arms import ARMS, DEFAULT
from measure import Comparison, compare, joined, quiet
from models import WORKLOADS, count_tensors
from toll import toll

_COLUMNS = (
    "arm",
    "median step",
    "mean step",
    "CPU of the training thread",
    "other threads",
    "bytes / step",
    "peak memory",
    "syncs / step",
)


def main() -> None:
    """Measure what the command line asks for, and print it."""
    options = _options()
    results = []
    if not options.json:
        print(f"{machine()}\n")
    for model in options.model:
        rows = [_measured(model, arm, options) for arm in _installed(options.arms)]
        results += rows
        if not options.json:
            print(_table(model, rows), flush=True)
    if options.json:
        print(json.dumps({"machine": machine(), "results": results}, indent=1))


def machine() -> str:
    """Return what the numbers were measured on, in one line."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    packages = ("torch", "lightning", "tensorboard")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {device}, one thread, "
        f"Python {platform.python_version()}, {versions}"
    )


def _options() -> Namespace:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--model", nargs="+", default=list(WORKLOADS), choices=WORKLOADS
    )
    parser.add_argument("--arms", nargs="+", default=DEFAULT, choices=ARMS)
    parser.add_argument("--pairs", type=int, default=9, help="pairs of blocks")
    parser.add_argument("--processes", type=int, default=3, help="to spread them over")
    parser.add_argument("--quick", action="store_true", help="a quarter of the steps")
    parser.add_argument("--json", action="store_true", help="print no tables")
    return parser.parse_args()


def _installed(names: list[str]) -> list[str]:
    for name in names:
        if ARMS[name].missing:
            warnings.warn(f"{name} is left out: no {ARMS[name].needs}", stacklevel=2)
    return [name for name in names if not ARMS[name].missing]


def _measured(model: str, name: str, options: Namespace) -> dict[str, Any]:
    """Return one row: an arm against the baseline, on one model."""
    workload = WORKLOADS[model]
    block = max(1, workload.block // 4) if options.quick else workload.block
    comparison = joined(
        [
            _anew(compared, name, model, pairs, block)
            for pairs in _shares(options.pairs, options.processes)
        ]
    )
    base_memory, base_syncs = _toll(None, model, 2 * block, options.processes)
    memory, syncs = _toll(name, model, 2 * block, options.processes)
    return {
        "model": model,
        "tensors": count_tensors(workload.model()),
        "arm": name,
        "steps": options.pairs * block,
        "step_seconds": float(
            np.median([np.median(base.steps) for base, _ in comparison.pairs])
        ),
        **{what: _quartiles(comparison, what) for what in ("median", "mean", "main")},
        "extra": {what: _extra(comparison, what) for what in ("main", "others")},
        "bytes": comparison.bytes_per_step[1] - comparison.bytes_per_step[0],
        "memory": memory - base_memory,
        "syncs": syncs - base_syncs,
    }


def compared(arm: str, model: str, pairs: int, block: int) -> Comparison:
    """Train the baseline and an arm in turns, in a process that did nothing else."""
    quiet()
    torch.set_num_threads(1)
    return compare(ARMS[arm], WORKLOADS[model], pairs=pairs, block=block)


def _anew(measure: Callable[..., Any], *args: object) -> Any:
    """Call `measure` in a new process; return the result."""
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
        return fresh.submit(measure, *args).result()


def _toll(arm: str | None, model: str, steps: int, processes: int) -> tuple[int, float]:
    """Return memory and syncs, the least memory: an allocator may keep more."""
    memory, syncs = zip(
        *(_anew(toll, arm, model, steps) for _ in range(processes)), strict=True
    )
    return min(memory), syncs[0]


def _shares(pairs: int, processes: int) -> list[int]:
    return [len(range(first, pairs, processes)) for first in range(processes)]


def _quartiles(comparison: Comparison, what: str) -> list[float]:
    quartiles: list[float] = np.quantile(
        comparison.ratios(what), (0.5, 0.25, 0.75)
    ).tolist()
    return quartiles


def _extra(comparison: Comparison, what: str) -> float:
    """Return the CPU seconds per step that the arm takes beyond the baseline's."""
    extra = [
        (getattr(arm, what) - getattr(base, what)) / len(base.steps)
        for base, arm in comparison.pairs
    ]
    return float(np.median(extra))


def _table(model: str, rows: list[dict[str, Any]]) -> str:
    """Return the rows of one model as Markdown."""
    first = rows[0]
    lines = [
        f"**{model}**, {first['tensors']} tensors, a step of "
        f"{1e3 * first['step_seconds']:.2f} ms, {first['steps']} steps each\n",
        "| " + " | ".join(_COLUMNS) + " |",
        "|---" + "|---:" * (len(_COLUMNS) - 1) + "|",
    ]
    return "\n".join([*lines, *map(_line, rows), ""])


def _line(row: dict[str, Any]) -> str:
    ratios = [
        f"{row[what][0]:.3f} [{row[what][1]:.3f}, {row[what][2]:.3f}]"
        for what in ("median", "mean", "main")
    ]
    cells = (
        f"`{row['arm']}`: {ARMS[row['arm']].says}",
        *ratios,
        f"{1e6 * row['extra']['others']:+.0f} us",
        f"{row['bytes']:+.0f}",
        f"{row['memory'] / 2**20:+.1f} MiB",
        f"{row['syncs']:+.1f}",
    )
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
