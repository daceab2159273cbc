"""What is shipped: the wheel holds the package alone, the sdist all that tests it."""

import re
import shutil
import subprocess
import sys
from importlib.metadata import Distribution
from pathlib import Path

import pytest

import gradguard
from tests.support import ROOT

INSTALLED_AS = {
    "gradguard": "gradguard",
    "cli": "gradguard/cli",
    "configs": "gradguard/configs",
}


def files_below(folder: Path) -> set[Path]:
    """Every file that is not a by-product, relative to the folder."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path for path in paths if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist, and the wheel from the sdist, out of a copy of the checkout.

    Built in place, setuptools would ship what earlier builds left behind.
    """
    work = tmp_path_factory.mktemp("packaging")
    by_products = shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "runs")
    shutil.copytree(ROOT, work / "checkout", ignore=by_products)
    build = f"-m build --no-isolation --outdir {work / 'dist'} {work / 'checkout'}"
    subprocess.run([sys.executable, *build.split()], check=True, capture_output=True)
    return work / "dist"


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    """The folder into which the wheel unpacks, as site-packages would hold it."""
    [archive] = dist.glob("*.whl")
    shutil.unpack_archive(archive, dist / "wheel", format="zip")
    return dist / "wheel"


@pytest.fixture(scope="module")
def sdist(dist: Path) -> Path:
    """The checkout that the sdist unpacks to."""
    [archive] = dist.glob("*.tar.gz")
    shutil.unpack_archive(archive, dist / "sdist")
    return dist / "sdist" / archive.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Distribution:
    return Distribution.at(wheel / f"gradguard-{gradguard.__version__}.dist-info")


def test_wheel_has_one_top_level_name(wheel: Path, metadata: Distribution) -> None:
    names = {path.name for path in wheel.iterdir()}

    assert names == {"gradguard", f"gradguard-{gradguard.__version__}.dist-info"}
    assert metadata.read_text("top_level.txt") == "gradguard\n"


def test_wheel_holds_exactly_the_files_of_the_packages(wheel: Path) -> None:
    checkout = {
        Path(installed) / file
        for folder, installed in INSTALLED_AS.items()
        for file in files_below(ROOT / folder)
    }

    assert {"gradguard" / file for file in files_below(wheel / "gradguard")} == checkout


def test_wheel_states_the_version_of_the_package(metadata: Distribution) -> None:
    assert metadata.version == gradguard.__version__


def test_wheel_installs_the_command(metadata: Distribution) -> None:
    [command] = metadata.entry_points.select(group="console_scripts")

    assert command.name == "gradguard"


def test_entry_points_of_the_wheel_resolve(metadata: Distribution) -> None:
    for entry_point in metadata.entry_points:
        assert callable(entry_point.load())


def test_sdist_holds_what_trains_and_tests_the_checkout(sdist: Path) -> None:
    needed = {"Makefile", "constraints.txt", "pyproject.toml", "LICENSE", "README.md"}

    assert needed <= {path.name for path in sdist.iterdir()}
    assert files_below(sdist / "tests") == files_below(ROOT / "tests")


def test_constraints_pin_every_requirement(metadata: Distribution) -> None:
    pins = (ROOT / "constraints.txt").read_text().lower().replace("_", "-")
    required = {
        re.split(r"[^\w.-]", requirement)[0].lower()
        for requirement in metadata.requires or []
    }

    assert required
    assert {name for name in required if f"\n{name}==" not in pins} == set()
