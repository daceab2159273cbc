"""What imports what: importing stays light, and imports point down."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import gradguard
from tests.support import ROOT
from tests.support.documents import DOCS, public_modules

# The house from the ground up: of what packages, beside the standard library, and of what
# else in gradguard each folder, and each file beside them, is made. A row may name only rows above it.
HOUSE = {
    "errors": ("", ""),
    "names": ("", ""),
    "scalars": ("", ""),
    "palette": ("", ""),
    "configs": ("", ""),
    "records": ("numpy", ""),
    "models": ("lightning torch torchmetrics", ""),
    "data": ("lightning numpy sklearn torch", ""),
    "gradients": ("numpy torch", "records"),
    "health": ("numpy", "names records"),
    "output": ("rich", "errors"),
    "clipping": ("numpy torch", "names records gradients"),
    "guard": ("numpy torch", "errors names records gradients"),
    "tensorboard": (
        "fsspec google numpy tensorboard werkzeug",
        "palette records health output",
    ),
    "hooks": ("torch", "gradients clipping"),
    "fit": (
        "numpy torch tqdm",
        "errors names records gradients health clipping guard tensorboard hooks",
    ),
    "callback": ("lightning torch", "clipping guard hooks fit"),
    "attach": ("", "names scalars clipping guard callback"),
    "experiments": (
        "lightning numpy pydantic pydantic_core torch yaml",
        "errors names scalars records models data output clipping guard tensorboard "
        "callback",
    ),
    "replay": (
        "jinja2 lightning numpy rich torch",
        "errors names gradients output guard hooks experiments",
    ),
    "__init__": ("", "errors health clipping guard tensorboard callback replay"),
    "report": (
        "jinja2 matplotlib numpy rich",
        "errors names palette records health output tensorboard",
    ),
    "sweep": ("matplotlib rich torch", "errors output experiments"),
    "inspection": (
        "lightning matplotlib rich torch",
        "errors output experiments",
    ),
    "reproduction": (
        "lightning matplotlib numpy rich torch",
        "errors names palette records data health output clipping tensorboard experiments",
    ),
    "cli": (
        "numpy rich typer",
        "errors records health output clipping experiments replay report sweep "
        "inspection reproduction",
    ),
    "__main__": ("", "cli"),
}
EVERYWHERE = {"typing_extensions"}
FILES = [*(ROOT / "gradguard").rglob("*.py"), *ROOT.glob("c[lo]*/*.py")]
HEAVY = {"lightning", "pydantic", "pytorch_lightning", "sklearn", "torch"}


def row_of(file: Path) -> str:
    """The row that speaks for a file: its own, or that of its folder."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "gradguard" else parts[0]


def imported(source: str) -> Iterator[str]:
    """Dotted names that the import statements of a file ask for, wherever they stand."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def trespasses(source: str, row: str) -> set[str]:
    """Imports of a file that its row does not allow."""
    packages, modules = HOUSE[row]
    allowed = {f"gradguard.{name}" for name in (row, "__version__", *modules.split())}
    allowed |= {*packages.split(), *EVERYWHERE, *sys.stdlib_module_names}
    return {
        name
        for name in imported(source)
        if not any(f"{name}.".startswith(f"{prefix}.") for prefix in allowed)
    }


def loaded_by(statement: str) -> set[str]:
    """Top-level names of what a fresh interpreter holds after the statement."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    return {name.partition(".")[0] for name in run.stdout.split()}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_file_imports_only_what_its_row_allows(file: Path) -> None:
    assert trespasses(file.read_text(), row_of(file)) == set()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import lightning.pytorch", "lightning.pytorch"),
        ("from gradguard import callback", "gradguard.callback"),
        (
            "def f():\n    from gradguard.fit.recorder import StepRecorder",
            "gradguard.fit.recorder.StepRecorder",
        ),
    ],
    ids=["third party", "upwards", "inside a function"],
)
def test_trespass_is_found(source: str, found: str) -> None:
    assert trespasses(source, "gradients") == {found}


def test_house_points_down() -> None:
    rows = list(HOUSE)

    for number, (row, (_, modules)) in enumerate(HOUSE.items()):
        assert set(modules.split()) <= set(rows[:number]), row


def test_every_third_party_import_is_a_requirement() -> None:
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {re.split(r"[^\w-]", line)[0] for line in project["dependencies"]}
    imports = {name for packages, _ in HOUSE.values() for name in packages.split()}
    # Spoken by pydantic and by TensorBoard, which bring the version they speak.
    imports -= {"google", "pydantic_core", "werkzeug"}

    for name in imports | EVERYWHERE:
        [distribution] = packages_distributions()[name]
        assert distribution.lower().replace("_", "-") in required


@pytest.mark.parametrize(
    "module",
    [
        "gradguard",
        "gradguard.attach",
        "gradguard.cli",
        "gradguard.clipping.spec",
        "gradguard.tensorboard.plugin",
        "gradguard.tensorboard.reader",
    ],
)
def test_import_loads_nothing_heavy(module: str) -> None:
    assert loaded_by(f"import {module}") & HEAVY == set()


def test_probe_sees_what_is_loaded() -> None:
    assert "torch" in loaded_by("from gradguard import ClipNorm")


@pytest.mark.parametrize(
    "name", sorted({*gradguard.__all__} - {"__version__", "replay"})
)
def test_public_name_is_the_object_of_its_home(name: str) -> None:
    public = getattr(gradguard, name)

    assert public is getattr(import_module(public.__module__), name)


def test_package_and_the_function_it_is_called_as_share_a_name() -> None:
    package = import_module("gradguard.replay")

    assert gradguard.replay is package  # type: ignore[comparison-overlap] # for mypy the function
    assert callable(package)


def test_public_names_are_listed() -> None:
    assert dir(gradguard) == sorted(gradguard.__all__)


def test_unknown_name_is_refused_by_name() -> None:
    with pytest.raises(AttributeError, match="'gradguard' has no attribute 'ClipNrom'"):
        gradguard.ClipNrom  # noqa: B018 (the access is the act)


@pytest.mark.parametrize("module", sorted(public_modules()))
def test_public_module_is_where_it_is_said_to_be(module: str) -> None:
    assert import_module(module).__name__ == module


@pytest.mark.parametrize(
    "file",
    [ROOT / "README.md", *DOCS.rglob("*.md"), *ROOT.glob("examples/*.py")],
    ids=lambda file: file.name,
)
def test_users_are_shown_public_modules_only(file: Path) -> None:
    shown = re.findall(r"^\s*from (gradguard[\w.]*) import", file.read_text(), re.M)

    assert set(shown) <= public_modules()
