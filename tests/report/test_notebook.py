"""What records show of themselves in a notebook."""

import sys
from pathlib import Path

import numpy as np
import pytest

import gradguard
from gradguard.records.recording import Recording
from tests.support.board import records, write
from tests.support.recordings import recording

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    before = np.ones((40, 2))
    before[30:, 1] = np.nan
    write(tmp_path, records(before, names=("a.weight", HOSTILE)))
    return tmp_path


def test_repr_is_one_line(run: Path) -> None:
    assert repr(gradguard.read_run(run)) == (
        "Records(40 steps of 2 parameters, 0 clipped, 10 non-finite)"
    )
    [one] = gradguard.read_recordings(run).values()
    assert repr(one) == (
        "Recording(Records(40 steps of 2 parameters, 0 clipped, 10 non-finite), "
        "clipping none)"
    )


def test_html_is_verdict_and_picture_without_a_script(run: Path) -> None:
    text = gradguard.read_run(run)._repr_html_()

    assert "The gradient is not finite at step 30" in text
    assert "GradGuard(on_nonfinite=" in text
    assert 'src="data:image/png;base64,' in text
    assert "<script" not in text
    assert len(text) < 50_000


def test_html_of_a_healthy_run_says_so() -> None:
    assert "Nothing found in 9 steps of 1 parameter." in (
        recording(np.ones((9, 1)))._repr_html_()
    )


def test_html_of_no_steps_is_their_repr() -> None:
    empty = recording(np.ones((0, 1)))

    assert empty._repr_html_() == f"<p>{empty!r}</p>"


def test_plot_is_a_figure_of_loss_total_and_norms(run: Path) -> None:
    figure = gradguard.read_run(run).plot()

    above, below = figure.subfigs
    assert len(above.axes) == 2
    [picture] = below.axes[0].images
    assert picture.get_array().shape == (2, 40, 3)


def test_frame_has_a_row_for_each_step(run: Path) -> None:
    pytest.importorskip("pandas")

    frame = gradguard.read_run(run).to_pandas()

    assert frame.index.name == "step"
    assert frame.shape == (40, 5 + 2 * 2)
    assert frame["before/a.weight"].tolist() == [1.0] * 40
    assert frame["nonfinite"].sum() == 10


def test_pandas_is_said_by_name_where_it_is_missing(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)

    with pytest.raises(ImportError, match="needs pandas, which is not installed"):
        gradguard.read_run(run).to_pandas()


def test_names_a_user_needs_are_at_the_root(run: Path) -> None:
    [one] = gradguard.read_recordings(run).values()

    assert isinstance(one, Recording)
    assert gradguard.diagnose(one)[0].kind == "nonfinite-gradient"
