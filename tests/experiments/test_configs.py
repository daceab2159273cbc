"""Every YAML that ships: it says what it shows, and it trains."""

from importlib.resources import files
from pathlib import Path

import pytest

from gradguard.experiments.resolve import bundled, resolve
from gradguard.experiments.run import run

FOLDER = Path(str(files("gradguard.configs")))
NAMES = sorted(file.stem for file in FOLDER.glob("*.yaml"))


def test_bundled_configs_are_the_files_of_the_folder() -> None:
    assert list(bundled()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_config_begins_with_a_sentence(name: str) -> None:
    first, *_ = bundled()[name].splitlines()

    assert first.startswith("# ")
    assert first.endswith(".")


@pytest.mark.parametrize("name", NAMES)
def test_config_says_how_to_run_it(name: str) -> None:
    assert f"#   gradguard train --config {name}" in bundled()[name].splitlines()


@pytest.mark.parametrize("name", NAMES)
def test_config_trains_one_step(name: str, tmp_path: Path) -> None:
    experiment = resolve(
        config=name,
        assignments=["trainer.max_steps=1", "trainer.accelerator=cpu"],
        values={"log_dir": str(tmp_path)},
    )

    outcome = run(experiment)

    assert outcome is not None
    assert outcome.records.steps.tolist() == [0]
    assert outcome.run_dir == tmp_path / name / "version_0"
