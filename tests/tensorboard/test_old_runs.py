"""Runs that earlier releases wrote are read as they were read then.

`written_by_0_1/` holds nine small runs and, in `read.json`, what the reader of that
release said of them.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradguard.records.recording import Recording
from gradguard.tensorboard.reader import read_recordings

RUNS = Path(__file__).with_name("written_by_0_1")
SAID: dict[str, dict[str, Any]] = json.loads((RUNS / "read.json").read_text())

both = pytest.mark.parametrize("run", SAID)


@both
def test_records_are_read_as_they_were(run: str) -> None:
    recordings = read_recordings(RUNS / run)

    assert recordings.keys() == SAID[run].keys()
    for optimizer, recording in recordings.items():
        said, records = SAID[run][optimizer], recording.records
        assert records.names == tuple(said["names"])
        assert recording.unoptimized == tuple(said["unoptimized"])
        for field in ("steps", "missing", "skipped", "refused"):
            assert getattr(records, field).tolist() == said[field]
        for field in ("before", "after", "loss"):
            np.testing.assert_allclose(getattr(records, field), said[field], rtol=1e-7)


@both
def test_epochs_are_read_as_they_were(run: str) -> None:
    for optimizer, recording in read_recordings(RUNS / run).items():
        assert epochs(recording) == SAID[run][optimizer]["epochs"]


def epochs(recording: Recording) -> dict[str, Any] | None:
    if recording.epochs is None:
        return None
    values = recording.epochs.values.astype(float).round(12).tolist()
    return {"epochs": recording.epochs.epochs.tolist(), "values": values}
