"""The bundled models, clipped and recorded, against a plain loop that knows no gradguard."""

import copy
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import seed_everything
from torch import Tensor

from gradguard import ClipNorm, ClipValue, GradGuard
from gradguard.clipping.policy import Policy
from gradguard.tensorboard.reader import read_run
from tests.support.bundled import SYSTEMS
from tests.support.oracle import Clip, Loop, by_nothing, to_norm, to_value
from tests.support.trainers import same_weights, trainer

STEPS = 8  # chaos would amplify the last bit beyond that
NORM = {"gradient_clip_val": 0.5}
VALUE = {"gradient_clip_val": 0.05, "gradient_clip_algorithm": "value"}


def by_both(parameters: list[Tensor]) -> None:
    to_norm(0.5)(parameters)
    to_value(0.05)(parameters)


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize(
    ("clip", "policies", "options"),
    [
        (by_nothing, None, {}),
        (to_norm(0.5), None, NORM),
        (to_value(0.05), None, VALUE),
        (to_norm(0.5), [ClipNorm(0.5)], {}),
        (to_value(0.05), [ClipValue(0.05)], {}),
        (by_both, [ClipNorm(0.5), ClipValue(0.05)], {}),
    ],
    ids=[
        "no_clip",
        "observed_norm",
        "observed_value",
        "own_norm",
        "own_value",
        "own_both",
    ],
)
def test_training_is_that_of_a_plain_loop(
    tmp_path: Path,
    name: str,
    clip: Clip,
    policies: list[Policy] | None,
    options: dict[str, Any],
) -> None:
    make_model, make_data, loss = SYSTEMS[name]
    seed_everything(3, verbose=False)
    model, data = make_model(), make_data(shuffle=False)
    data.setup("fit")
    batches = [batch for _ in range(2) for batch in data.train_dataloader()]
    twin = copy.deepcopy(model)

    seen = Loop(clip, loss=loss).run(twin, batches[:STEPS])[""]
    guard = GradGuard(clip=policies)
    quick = {"max_epochs": -1, "max_steps": STEPS, "limit_val_batches": 0}
    trainer(tmp_path, guard, **quick, **options).fit(model, datamodule=data)

    run = read_run(tmp_path / "run")
    assert run.names == tuple(name for name, _ in twin.named_parameters())
    assert seen.agree_with(run, rtol=1e-5)
    assert same_weights(model, twin)
