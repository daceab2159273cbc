"""1000 noisy points on two circles, one inside the other."""

import torch
from lightning.pytorch import LightningDataModule
from sklearn.datasets import make_circles
from typing_extensions import override

from gradguard.data.batches import Batches


class CirclesData(LightningDataModule):
    """Points of shape `[N, 2]` and labels of shape `[N]`: 0. outside, 1. inside.

    As in the source, all 1000 points both train and test.

    Args:
        batch_size: Points per training batch.
        shuffle: Whether to shuffle the training points each epoch.

    References:
        See `gradguard.models.deep_mlp.DeepMLP`.
    """

    def __init__(self, *, batch_size: int = 32, shuffle: bool = True) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.shuffle = shuffle

    @override
    def setup(self, stage: str) -> None:
        points, labels = make_circles(
            n_samples=1000, factor=0.5, noise=0.1, random_state=42
        )
        self.points = torch.from_numpy(points).float()
        self.labels = torch.from_numpy(labels).float()

    @override
    def train_dataloader(self) -> Batches:
        return Batches(
            self.points,
            self.labels,
            batch_size=self.batch_size,
            shuffle=self.shuffle,
            sharded=True,
        )

    def train_eval_dataloader(self) -> Batches:
        """Return all points in order, in one batch, to evaluate on."""
        return Batches(self.points, self.labels)

    @override
    def test_dataloader(self) -> Batches:
        return self.train_eval_dataloader()
