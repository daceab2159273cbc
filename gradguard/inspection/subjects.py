"""Inspect a bundled experiment."""

from lightning.pytorch import seed_everything

from gradguard.experiments.build import build
from gradguard.experiments.config import Experiment
from gradguard.inspection.layers import Inspection
from gradguard.inspection.passes import by_trainer


def inspect_experiment(experiment: Experiment, *, full_batch: bool) -> Inspection:
    """Inspect a bundled model on its first batch, or on all training rows.

    Raises:
        ConfigError: If the settings do not fit each other.
    """
    seed_everything(experiment.seed, verbose=False)
    model, data, _ = build(experiment)
    data.setup("fit")
    batches = data.train_eval_dataloader() if full_batch else data.train_dataloader()
    rows = "all training rows" if full_batch else "the first batch"
    return by_trainer(model, batches, subject=experiment.name, rows=rows)
