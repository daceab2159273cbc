"""The bundled models, clipped and recorded, against a plain loop that knows no gradguard.

The loop trains a copy of the model by torch alone; norms are taken in float64 from the
gradients themselves, the clip is torch's.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import (
    LightningDataModule,
    LightningModule,
    Trainer,
    seed_everything,
)
from lightning.pytorch.loggers import TensorBoardLogger

from gradguard import ClipNorm, ClipValue, GradGuard
from gradguard.clipping.policy import Policy
from gradguard.tensorboard.reader import read_run
from tests.support.bundled import (
    SYSTEMS,
    Parameters,
    by_both,
    by_norm,
    by_nothing,
    by_value,
    plain_loop,
    weights,
)

STEPS = 8  # chaos would amplify the last bit beyond that


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize(
    ("clip", "policies", "options"),
    [
        (by_nothing, None, {}),
        (by_norm, None, {"gradient_clip_val": 0.5}),
        (
            by_value,
            None,
            {"gradient_clip_val": 0.05, "gradient_clip_algorithm": "value"},
        ),
        (by_norm, [ClipNorm(0.5)], {}),
        (by_value, [ClipValue(0.05)], {}),
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
def test_norms_and_weights_are_those_of_a_plain_loop(
    tmp_path: Path,
    name: str,
    clip: Callable[[Parameters], None],
    policies: list[Policy] | None,
    options: dict[str, Any],
) -> None:
    make_model, make_data, loss = SYSTEMS[name]
    seed_everything(3, verbose=False)
    model: LightningModule = make_model()
    data: LightningDataModule = make_data(shuffle=False)
    data.setup("fit")
    epochs = [batch for _ in range(2) for batch in data.train_dataloader()]
    twin = copy.deepcopy(model)

    before, after = plain_loop(twin, epochs[:STEPS], loss, clip)
    Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        log_every_n_steps=4,
        limit_val_batches=0,
        callbacks=[GradGuard(clip=policies)],
        logger=TensorBoardLogger(tmp_path, name=None, version="run"),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    ).fit(model, datamodule=data)

    run = read_run(tmp_path / "run")
    assert run.names == tuple(name for name, _ in twin.named_parameters())
    np.testing.assert_allclose(run.before, before, rtol=1e-5)
    np.testing.assert_allclose(run.after, after, rtol=1e-5)
    assert torch.equal(weights(model), weights(twin))
