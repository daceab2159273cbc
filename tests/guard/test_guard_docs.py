"""docs/guard.md has every policy, and its files and its example are what they seem."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gradguard.clipping.spec import POLICIES
from gradguard.experiments.resolve import resolve
from gradguard.experiments.yaml_text import parse
from gradguard.records.clips import BY_NAME
from tests.support import ROOT
from tests.support.documents import DOCS, blocks

PAGE = (DOCS / "guard.md").read_text()


def test_yaml_is_an_experiment() -> None:
    (text,) = [block.text for block in blocks("guard.md") if block.language == "yaml"]

    experiment = resolve(config="srn", values=parse(text))

    assert experiment.on_nonfinite == "skip"
    assert [clip.kind for clip in experiment.clip] == ["zclip", "by_name"]


def test_every_policy_has_its_row() -> None:
    rows = re.findall(r"^\| `(\w+)\(.*?\| `(\w+)` \|", PAGE, re.MULTILINE)

    names = {row.name: kind for kind, row in POLICIES.items()}
    assert dict(rows) == names | {"ByName": BY_NAME}


@pytest.mark.slow
def test_replay_example_finds_what_broke(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples/replay_bad_step.py")],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert "weights are finite: True" in done.stdout
    assert "reproduced: True" in done.stdout
    line = "predicted = self.line(self.drop(x.log()))"
    assert f"broke: log, forward pass, in: {line}" in done.stdout
    assert f"samples: [{100 % 32}]" in done.stdout
