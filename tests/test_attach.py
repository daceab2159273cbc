"""GRADGUARD=1 records with no line changed, in both namespaces of Lightning."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import lightning.pytorch
import numpy as np
import pytest
import pytorch_lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gradguard import AdaptiveClip, ByName, ClipNorm, ClipValue, GradGuard, Spike, ZClip
from gradguard.attach import callbacks
from gradguard.clipping.policy import Policy
from gradguard.clipping.spec import POLICIES, make
from gradguard.tensorboard.reader import read_run
from tests.support.trainers import QUIET

namespaces = pytest.mark.parametrize(
    "namespace",
    [lightning.pytorch, pytorch_lightning],
    ids=lambda module: module.__name__,
)


def fit(namespace: ModuleType, path: Path, *guards: GradGuard) -> None:
    class Net(namespace.LightningModule):  # type: ignore[name-defined,misc] # either one
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 1)

        def training_step(self, batch: Tensor, _: int) -> Tensor:
            y: Tensor = self.layer(batch)
            return y.square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

        def train_dataloader(self) -> DataLoader[Tensor]:
            return DataLoader(torch.ones(6, 4))  # type: ignore[arg-type] # a tensor will do

    torch.manual_seed(0)
    namespace.Trainer(
        max_epochs=1,
        log_every_n_steps=2,
        callbacks=list(guards),
        logger=namespace.loggers.TensorBoardLogger(path, name=None, version="run"),
        **QUIET,
    ).fit(Net())


@namespaces
def test_same_class_watches_both_namespaces(
    namespace: ModuleType, tmp_path: Path
) -> None:
    fit(namespace, tmp_path, GradGuard(clip=ClipNorm(0.1)))

    run = read_run(tmp_path / "run")
    assert len(run.steps) == 6
    assert run.total_after == pytest.approx(0.1, rel=1e-4)


@namespaces
def test_environment_attaches_a_guard(
    namespace: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(namespace, tmp_path / "explicit", GradGuard(clip=ClipNorm(0.1)))
    monkeypatch.setenv("GRADGUARD", "clip_norm=0.1")
    fit(namespace, tmp_path / "attached")

    explicit, attached = (
        read_run(tmp_path / name / "run") for name in ("explicit", "attached")
    )
    np.testing.assert_array_equal(attached.after, explicit.after)


@namespaces
def test_nothing_is_attached_when_nobody_asks(
    namespace: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRADGUARD", raising=False)

    fit(namespace, tmp_path)

    with pytest.raises(ValueError, match="no records of gradguard"):
        read_run(tmp_path / "run")


def test_a_guard_that_is_there_does_what_the_environment_adds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADGUARD", "clip_norm=0.1")

    fit(lightning.pytorch, tmp_path, GradGuard(layer_statistics=True))

    assert read_run(tmp_path / "run").total_after == pytest.approx(0.1, rel=1e-4)


def test_a_guard_that_clips_otherwise_than_the_environment_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADGUARD", "clip_norm=0.001")

    with pytest.raises(ValueError, match=r"two GradGuards.*differ in clip.*GRADGUARD"):
        fit(lightning.pytorch, tmp_path, GradGuard(clip=ClipNorm(0.1)))


@pytest.mark.parametrize(
    "value", ["", " ", ",", "0", "false", "False", "no", "OFF", " off ", "'0'", '"no"']
)
def test_off_values_attach_nothing(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADGUARD", value)

    assert callbacks() == []


@pytest.mark.parametrize("value", ["1", " 1", "true", "True", "yes", "ON", '"1"', "1,"])
def test_on_values_attach_a_guard_that_records(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADGUARD", value)

    (guard,) = callbacks()

    assert guard.policies == ()


@pytest.mark.parametrize(
    ("value", "number"),
    [("010", 10), ("0o10", 8), ("0x10", 16), ("1_000", 1000), ("'7'", 7), ("+5", 5)],
)
def test_numbers_are_those_of_config_files(
    value: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADGUARD", f"every_n_steps={value},clip_norm={value}")

    (guard,) = callbacks()

    assert guard.every_n_steps == number
    assert guard.policies == (ClipNorm(float(number)),)


@pytest.mark.parametrize("word", ["true", "Yes", "ON", "1"])
def test_options_are_switched_on_by_the_same_words(
    word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADGUARD", f"layer_statistics={word}")

    (guard,) = callbacks()

    assert guard.layer_statistics


@pytest.mark.parametrize(
    ("value", "spike"),
    [("skip", Spike("skip")), ("raise:8", Spike("raise", sigma=8.0))],
)
def test_spikes_are_stopped(
    value: str, spike: Spike, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADGUARD", f"on_spike={value}")

    (guard,) = callbacks()

    assert guard.on_spike == spike


def test_values_with_blanks_and_commas_stand_in_quotes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    value = (
        "on_nonfinite=skip, dump_dir='/my dumps, all', clip_by_name=\"[a,b].*=agc\","
    )
    monkeypatch.setenv("GRADGUARD", value)

    (guard,) = callbacks()

    assert guard.dump_dir == "/my dumps, all"
    assert guard.policies == (ByName({"[a,b].*": AdaptiveClip()}),)


def test_quotes_around_all_of_it_are_those_of_an_env_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GRADGUARD", '"clip_norm=5,every_n_steps=10"')

    (guard,) = callbacks()

    assert (guard.policies, guard.every_n_steps) == ((ClipNorm(5.0),), 10)


def test_home_is_found_in_the_dump_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    monkeypatch.setenv("GRADGUARD", "on_nonfinite=skip,dump_dir=~/dumps")

    (guard,) = callbacks()

    assert guard.dump_dir == "/home/me/dumps"


def test_options_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADGUARD", "clip_value=2, clip_norm=5, every_n_steps=10")

    (guard,) = callbacks()

    assert guard.policies == (ClipNorm(5.0), ClipValue(2.0))
    assert guard.every_n_steps == 10


@pytest.mark.parametrize(
    ("value", "policies"),
    [
        *((f"clip={kind}:3", (make(kind, 3.0),)) for kind in POLICIES),
        ("clip=zclip", (ZClip(),)),
        ("clip=zclip,clip=norm:5", (ZClip(), ClipNorm(5.0))),
        ("clip=zclip,clip_value=1", (ClipValue(1.0), ZClip())),
        (
            "clip_by_name=rnn.*=value:10,clip_by_name=*=agc,clip=zclip",
            (ZClip(), ByName({"rnn.*": ClipValue(10.0), "*": AdaptiveClip()})),
        ),
    ],
)
def test_every_policy_is_read(
    value: str, policies: tuple[Policy, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADGUARD", value)

    (guard,) = callbacks()

    assert guard.policies == policies


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("clip=zcilp", r"GRADGUARD expects norm:NUMBER, .* got 'zcilp'"),
        ("clip=norm:five", "GRADGUARD expects a number for clip, got 'norm:five'"),
        ("clip_by_name=norm:5", "GRADGUARD expects PATTERN=POLICY"),
        (
            "clip_nrom=5",
            "GRADGUARD has no option 'clip_nrom'; did you mean 'clip_norm'",
        ),
        ("clip_norm=five", "GRADGUARD expects a number for clip_norm, got 'five'"),
        ("clip_norm=1:30", "GRADGUARD expects a number for clip_norm, got '1:30'"),
        ("clip_norm=nan", "GRADGUARD expects a number for clip_norm, got 'nan'"),
        ("clip_norm=.inf", "max_norm must be a positive number, got inf"),
        ("every_n_steps=1e1", "expects a whole number for every_n_steps, got '1e1'"),
        ("layer_statistics=maybe", "expects true or false for layer_statistics, got"),
        ("ture", "GRADGUARD has no option 'ture'; did you mean 'true'"),
        ("offf", "GRADGUARD has no option 'offf'; did you mean 'off'"),
        ("off,clip_norm=5", "GRADGUARD says off beside options, got 'off,clip_norm=5'"),
        ("clip_norm=5,clip_norm=1", "GRADGUARD gives clip_norm twice, keep one of"),
        ("dump_dir=it's", "GRADGUARD has a quote that does not end, got"),
        ("clip_norm=-1", "max_norm must be a positive number, got -1.0"),
        ("on_spike=stop", "GRADGUARD expects record, skip or raise, with sigma behind"),
        ("on_spike=skip:-1", "expects record, skip or raise, .* got 'skip:-1'"),
    ],
)
def test_mistakes_are_named(
    value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADGUARD", value)

    with pytest.raises(ValueError, match=message):
        callbacks()


@pytest.mark.parametrize(("value", "imports"), [("0", False), ("1", True)])
def test_factory_imports_torch_only_when_asked(value: str, imports: bool) -> None:
    code = """
import sys
from gradguard.attach import callbacks
callbacks()
print(any(name in sys.modules for name in ("torch", "lightning", "gradguard.callback")))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"GRADGUARD": value},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == str(imports)
