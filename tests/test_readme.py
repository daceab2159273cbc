"""The README's code and the examples run as they stand."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.documents import blocks
from tests.support.processes import free_port

README = (ROOT / "README.md").read_text()


def code_in(language: str) -> list[str]:
    return [
        block.text for block in blocks("../README.md") if block.language == language
    ]


def test_readme_begins_with_the_command_for_a_loss_that_is_nan() -> None:
    lines = README.splitlines()

    assert "Your loss is NaN?" in lines[2]
    assert "GRADGUARD=1 python train.py" in lines[:10]
    assert "```python" in lines[:30]


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)", README))
def test_link_of_the_readme_leads_to_a_file(link: str) -> None:
    assert (ROOT / link).is_file()


@pytest.mark.slow
def test_readme_code_runs_as_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run("gradguard train --model srn --clip-norm 5 --max-epochs 1", tmp_path)

    for code in code_in("python"):
        exec(compile(code, "README.md", "exec"), {})


COMMANDS = [
    commands
    for block in code_in("sh")
    if (commands := re.findall(r"^((?:gradguard|torchrun) [^#\n]*[^#\s])", block, re.M))
]


def run(command: str, directory: Path) -> str:
    name, *arguments = command.split()
    executable = shutil.which(name, path=Path(sys.executable).parent)
    assert executable
    done = subprocess.run(
        [executable, *arguments],
        cwd=directory,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        # torchrun's own choice is one port for all, and other tests run beside.
        env={**os.environ, "PET_MASTER_PORT": str(free_port())},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("commands", COMMANDS, ids=" ".join)
def test_readme_commands_run_as_pasted(tmp_path: Path, commands: list[str]) -> None:
    for command in commands:
        trains = " train " in command

        printed = run(command + trains * " --max-epochs 1", tmp_path)

        assert ("tensorboard --logdir runs" in printed) is trains


@pytest.mark.slow
def test_existing_trainer_example_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)

    runpy.run_path(str(ROOT / "examples/existing_trainer.py"), run_name="__main__")

    assert "of 80 steps" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:update skipped:UserWarning")
@pytest.mark.filterwarnings(r"ignore:step \d+. weights are not finite:UserWarning")
@pytest.mark.filterwarnings("ignore:GradGuard kept back:UserWarning")
def test_example_goes_back_to_good_weights(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)

    runpy.run_path(str(ROOT / "examples/back_to_good_weights.py"), run_name="__main__")

    printed = capsys.readouterr().out
    assert re.findall(r"weights are finite: (\w+)", printed) == ["False", "True"]
    assert "last good checkpoint: epoch=1-step=8.ckpt" in printed
    assert "epochs: 4 steps: 16" in printed
