"""Runs that earlier releases wrote are read as they were read then, their clip as data.

`written_by_0_1/` holds nine small runs and, in `read.json`, what the reader of that
release said of them.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter

import gradguard
from gradguard import ClipNorm
from gradguard.clipping.policy import Policy
from gradguard.clipping.spec import as_data
from gradguard.records import old_clips
from gradguard.records.recording import Recording
from gradguard.records.records import from_stored
from gradguard.records.schema import Schema
from gradguard.tensorboard.reader import DamagedFileError, read_recordings
from gradguard.tensorboard.writer import EventWriter

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


NORM, NONE = "ClipNorm(1.0)", (None, None)
TRAINER = "Trainer(gradient_clip_val={}, gradient_clip_algorithm={!r})"


@pytest.mark.parametrize(
    ("run", "words", "thresholds"),
    [
        ("by-name", f"ByName({{'rnn.*': ClipValue(10.0), '*': {NORM}}})", NONE),
        (
            "learned",
            "AutoClip(10), then ZClip(2.5), then AdaptiveClip(0.1)",
            NONE,
        ),
        ("norm-per-parameter", "ClipNorm(1.0, per_parameter=True)", (None, 1.0)),
        ("observed", "", NONE),
        ("skipped", NORM, (1.0, None)),
        ("trainer-norm", TRAINER.format(1.0, "norm"), (1.0, None)),
        ("trainer-value", TRAINER.format(0.5, "value"), NONE),
        ("two-norms", "ClipNorm(5.0), then ClipNorm(1.0)", (1.0, None)),
        ("two-optimizers", NORM, (1.0, None)),
    ],
)
def test_clip_is_read_as_data(
    run: str, words: str, thresholds: tuple[float | None, float | None]
) -> None:
    for optimizer, recording in read_recordings(RUNS / run).items():
        [(step, clip)] = recording.clips
        assert step == SAID[run][optimizer]["clips"][0][0]
        assert str(clip) == words
        assert (clip.max_norm_of_total, clip.max_norm_of_each) == thresholds


def policies_in(text: str) -> list[Policy]:
    """Run the code that the release wrote."""
    public = {name: getattr(gradguard, name) for name in gradguard.__all__}
    return list(eval(f"({text},)", public))


@pytest.mark.parametrize(
    "run", [run for run in SAID if not run.startswith(("trainer", "observed"))]
)
def test_clip_is_that_of_the_policies_its_text_makes(run: str) -> None:
    for optimizer, recording in read_recordings(RUNS / run).items():
        [[_, text]] = SAID[run][optimizer]["clips"]

        assert recording.clips[0].clip == as_data(policies_in(text))


@pytest.mark.parametrize(
    "text", ["<Mine object>", "Mine(max_norm=1.0)", "ClipNorm(max_norm=1.0, what=2)"]
)
def test_text_of_an_unknown_policy_is_kept(text: str) -> None:
    clip = old_clips.read(text)

    assert str(clip) == text
    assert [policy.kind for policy in clip.policies] == ["other"]


def test_own_policy_beside_ours_is_kept_apart() -> None:
    clip = old_clips.read("Mine(size=2), ClipNorm(max_norm=5.0, per_parameter=False)")

    assert str(clip) == "Mine(size=2), then ClipNorm(5.0)"
    assert clip.max_norm_of_total == 5.0


def test_run_that_goes_on_in_this_release_has_one_clip(tmp_path: Path) -> None:
    [old] = (RUNS / "two-norms").glob("*tfevents*")
    shutil.copy(old, tmp_path)
    recording = read_recordings(tmp_path)[""]
    names, last = recording.records.names, int(recording.records.steps[-1])
    clip = as_data([ClipNorm(5.0), ClipNorm(1.0)])
    more = from_stored(
        names,
        np.array([last + 1]),
        np.ones((1, len(names), 2), np.float32),
        np.ones(1, np.float32),
    )
    sink = EventFileWriter(str(tmp_path))
    writer = EventWriter(sink, tmp_path, max_scalars=0)
    writer.write(Schema(names, "", clip, recording.unoptimized), more, {})
    writer.close()
    sink.close()

    joined = read_recordings(tmp_path)[""]

    assert joined.records.steps[-1] == last + 1
    assert joined.clips == recording.clips


def test_run_of_a_later_release_is_refused_with_its_file(tmp_path: Path) -> None:
    content = Schema(("a",)).encode().replace(b'"version": 2', b'"version": 3')
    newer = Schema(("a",), content=content)
    sink = EventFileWriter(str(tmp_path))
    value = Summary.Value(
        tag=newer.tag("gradguard/norms"),
        metadata=SummaryMetadata(
            plugin_data=SummaryMetadata.PluginData(
                plugin_name="gradguard", content=content
            )
        ),
    )
    sink.add_event(Event(step=1, summary=Summary(value=[value])))
    sink.close()

    with pytest.raises(
        DamagedFileError, match=r"tfevents.* is of format 3.* install a newer one"
    ):
        read_recordings(tmp_path)


def epochs(recording: Recording) -> dict[str, Any] | None:
    if recording.epochs is None:
        return None
    values = recording.epochs.values.astype(float).round(12).tolist()
    return {"epochs": recording.epochs.epochs.tolist(), "values": values}
