"""The directory of a run that is one of many: `version_0`, `version_1`, ..."""

from itertools import count
from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override


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
