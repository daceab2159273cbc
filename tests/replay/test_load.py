"""What is no dump, may not be opened, or fits no module ends in one sentence."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from typing_extensions import override

import gradguard
from gradguard.errors import ConfigError, Interrupted
from gradguard.replay.load import load
from gradguard.replay.rebuild import rebuilt
from tests.support.dumps import (
    BAD_BATCH,
    Deeper,
    Logarithm,
    OwnBatch,
    dumped,
)

pytestmark = pytest.mark.filterwarnings("ignore:update skipped:UserWarning")

MODULES = "tests.support.dumps"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.warns(UserWarning, match="update skipped"):
        return dumped(tmp_path_factory.mktemp("fit"), Logarithm())


def test_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.pt does not exist: expected a file"):
        load(tmp_path / "none.pt")


def test_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a directory, not a dump"):
        load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + bytes(400)])
def test_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other.pt").write_bytes(content)

    with pytest.raises(ConfigError, match=r"other\.pt is damaged, or no dump"):
        load(tmp_path / "other.pt")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_dump_that_was_cut_short_is_refused(
    tmp_path: Path, file: Path, share: float
) -> None:
    whole = file.read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: int(len(whole) * share)])

    with pytest.raises(ConfigError, match=r"cut\.pt is damaged, or no dump"):
        load(tmp_path / "cut.pt")


def test_archive_that_is_no_file_of_torch_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("hello", "hello")

    with pytest.raises(ConfigError, match=r"other\.pt is damaged, or no dump"):
        load(tmp_path / "other.pt")


@pytest.mark.parametrize("content", [{"weights": torch.ones(2)}, [1, 2], 7])
def test_file_of_torch_that_is_no_dump_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "weights.pt")

    with pytest.raises(ConfigError, match=r"weights\.pt is no dump"):
        load(tmp_path / "weights.pt")


def test_dump_of_an_older_gradguard_is_told(tmp_path: Path) -> None:
    torch.save({"batch": 1, "rng": {}, "weights": {}}, tmp_path / "old.pt")

    with pytest.raises(ConfigError, match=r"old\.pt was saved by gradguard 0\.1"):
        load(tmp_path / "old.pt")


def test_dump_of_another_version_is_told(tmp_path: Path, file: Path) -> None:
    content = torch.load(file, weights_only=True)
    torch.save({**content, "version": 99}, tmp_path / "new.pt")

    with pytest.raises(ConfigError, match=r"a dump of version 99, .* for version 2"):
        load(tmp_path / "new.pt")


@pytest.mark.parametrize(
    ("changed", "lacks"),
    [
        ({"batches": []}, "batches"),
        ({"batches": 7}, "batches"),
        ({"weights": None, "scaler": []}, "weights and scaler"),
    ],
)
def test_dump_that_lacks_something_is_told(
    tmp_path: Path, file: Path, changed: dict[str, Any], lacks: str
) -> None:
    content = torch.load(file, weights_only=True)
    torch.save({**content, **changed}, tmp_path / "half.pt")

    with pytest.raises(ConfigError, match=rf"half\.pt is damaged: it lacks {lacks} of"):
        load(tmp_path / "half.pt")


def test_dump_of_tensors_is_opened_without_trust(file: Path) -> None:
    bad = load(file)

    assert [saved["batch_idx"] for saved in bad.batches] == [BAD_BATCH]
    assert bad.batches[0]["batch"].shape == (8, 4)


class Payload:
    """What a stranger may put into a batch."""

    ran = False

    def __reduce__(self) -> Any:
        return _run, ()


def _run() -> str:
    Payload.ran = True
    return "ran"


def test_code_of_a_stranger_does_not_run_without_trust(
    tmp_path: Path, file: Path
) -> None:
    content = torch.load(file, weights_only=True)
    content["batches"][0]["batch"] = Payload()
    torch.save(content, tmp_path / "foreign.pt")

    with pytest.raises(ConfigError, match=r"foreign\.pt holds objects of .*_run, and"):
        load(tmp_path / "foreign.pt")
    assert not Payload.ran
    assert load(tmp_path / "foreign.pt", trust=True).batches[0]["batch"] == "ran"
    assert Payload.ran


def test_batch_of_a_class_of_its_own_is_opened_with_trust(tmp_path: Path) -> None:
    own = dumped(tmp_path, OwnBatch())

    with pytest.raises(ConfigError, match=r"dumps\.Rows, and .* give --trust"):
        load(own)
    assert load(own, trust=True).batches[0]["batch"].x.shape == (8, 4)


def test_batch_of_arrays_needs_no_trust(tmp_path: Path) -> None:
    class Arrays(Logarithm):
        @override
        def batches(self) -> Any:
            return [{"x": x.numpy(), "n": np.float64(1)} for x in super().batches()]

        @override
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(torch.as_tensor(batch["x"]), batch_idx)

    batch = load(dumped(tmp_path, Arrays())).batches[0]["batch"]

    assert isinstance(batch["x"], np.ndarray)
    assert batch["n"] == 1


def test_hyperparameters_of_the_run_make_the_module(tmp_path: Path) -> None:
    bad = load(dumped(tmp_path, Logarithm(width=6)))

    assert rebuilt(bad, None).line.in_features == 6
    assert rebuilt(bad, None, ["width=3"]).line.in_features == 3


MISTAKES = {
    f"{MODULES}:Wider": (
        r"Wider does not fit the dump: its line\.weight is \[1, 5\], "
        r"\[1, 4\] in the dump"
    ),
    f"{MODULES}:Deeper": (
        r"Deeper does not fit the dump: the dump has no more\.weight, "
        r"\[1, 1\] in the module"
    ),
    f"{MODULES}:NeedsArgument": (
        "takes other arguments: missing a required argument: 'factor', give --set"
    ),
    f"{MODULES}:None": r"tests\.support\.dumps has no 'None'",
    f"{MODULES}:Rows": "is not a class of modules",
    "torch.nn:Identity": r"has no training_step\(\)",
    "no.such:Module": "cannot be imported: ModuleNotFoundError",
    "Logarithm": "expects package.module:Class, got 'Logarithm'",
}


@pytest.mark.parametrize("path", MISTAKES)
def test_module_that_does_not_fit_is_told_by_name(file: Path, path: str) -> None:
    with pytest.raises(ConfigError, match=MISTAKES[path]):
        gradguard.replay(file, path)


def test_weight_that_only_the_dump_has_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"Logarithm does not fit the dump: it has no more\.weight"
    ):
        gradguard.replay(dumped(tmp_path, Deeper()), Logarithm())


def test_class_inside_a_function_is_told(tmp_path: Path) -> None:
    class Local(Logarithm):
        pass

    file = dumped(tmp_path, Local())

    with pytest.raises(ConfigError, match="Local was made inside a function"):
        gradguard.replay(file)


def test_class_in_the_script_is_told_with_the_script(
    file: Path, tmp_path: Path
) -> None:
    content = torch.load(file, weights_only=True)
    content["module"] |= {"path": "__main__:Logarithm", "script": "train"}
    torch.save(content, tmp_path / "script.pt")

    with pytest.raises(ConfigError, match="give --module train:Logarithm"):
        gradguard.replay(tmp_path / "script.pt")


def test_module_that_cannot_be_copied_is_told(file: Path) -> None:
    class Uncopied(Logarithm):
        def __deepcopy__(self, memo: Any) -> Any:
            raise RuntimeError("not me")

    with pytest.raises(ConfigError, match="Uncopied cannot be copied: RuntimeError"):
        gradguard.replay(file, Uncopied())


def test_precision_that_is_not_to_be_had_is_told(tmp_path: Path, file: Path) -> None:
    content = torch.load(file, weights_only=True)
    content["trainer"]["precision"] = "transformer-engine"
    torch.save(content, tmp_path / "te.pt")

    with pytest.raises(
        ConfigError, match=r"\(precision transformer-engine\) cannot be had"
    ):
        gradguard.replay(tmp_path / "te.pt")


def test_module_that_fetches_its_batches_itself_is_refused(file: Path) -> None:
    class Fetching(Logarithm):
        @override
        def training_step(self, dataloader_iter: Any) -> Any:  # type: ignore[override] # as Lightning allows
            batch, _, _ = next(dataloader_iter)
            return super().training_step(batch, 0)

    with pytest.raises(ConfigError, match=r"training_step\(dataloader_iter\)"):
        gradguard.replay(file, Fetching())


def test_ctrl_c_ends_it_in_one_sentence(file: Path) -> None:
    class Interrupting(Logarithm):
        @override
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="interrupted before the step was run"):
        gradguard.replay(file, Interrupting())


def test_error_of_the_module_keeps_its_traceback(file: Path) -> None:
    class Failing(Logarithm):
        @override
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.trainer.datamodule.classes  # type: ignore[attr-defined] # set by a connector

    with pytest.raises(AttributeError, match="'NoneType' object has no attribute"):
        gradguard.replay(file, Failing())


def test_live_module_stays_as_it_is(file: Path) -> None:
    module: LightningModule = Logarithm()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}

    gradguard.replay(file, module)

    after = module.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(parameter.grad is None for parameter in module.parameters())
