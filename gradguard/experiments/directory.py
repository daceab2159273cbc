"""Where an experiment's runs are, and which of `version_0`, `version_1`, ... is the next."""

import os
from itertools import count
from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from gradguard.errors import ConfigError
from gradguard.experiments.config import Experiment
from gradguard.tensorboard.places import is_url, located


def on_this_machine(experiment: Experiment) -> Experiment:
    """Return the experiment with `~`, variables and `file://` of its `log_dir` resolved.

    Raises:
        ConfigError: If it is elsewhere.
    """
    # Lightning expands both where it writes events, and only there.
    log_dir = located(os.path.expandvars(experiment.log_dir))
    if is_url(log_dir):
        raise ConfigError(
            f"log_dir {log_dir!r} is not on this machine: expected a directory of it"
        )
    return experiment.model_copy(update={"log_dir": log_dir})


class ClaimingLogger(TensorBoardLogger):
    """Make the next version's directory before anyone else does, or go on to the one after.

    Lightning's own logger only looks which one is next, so that two trainings that start
    together write into the same.
    """

    # Private, and the one place that chooses; it is asked when training begins.
    @override
    def _get_next_version(self) -> int:
        following = super()._get_next_version()
        claimed = _claimed(Path(self.root_dir), following)
        return following if claimed is None else claimed


@rank_zero_only
def _claimed(runs: Path, following: int) -> int:
    """Make the first of the directories that nobody has made; other ranks make none."""
    runs.mkdir(parents=True, exist_ok=True)
    for version in count(following):
        try:
            (runs / f"version_{version}").mkdir()
        except FileExistsError:
            continue
        return version
    raise AssertionError("numbers do not end")
