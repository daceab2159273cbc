"""1000 points of a linear function of 20 features, with targets that are not scaled."""

import torch
from lightning.pytorch import LightningDataModule
from sklearn.datasets import make_regression
from torch import Tensor
from typing_extensions import override

from gradguard.data.batches import Batches

NUM_TRAIN = 500


class RegressionData(LightningDataModule):
    """x of shape `[N, 20]`, about N(0, 1), and y of shape `[N]`, from -436 to 575.

    The first 500 rows train, the last 500 test. As in the source, the test rows also
    give the validation loss of each epoch: there is no third set.

    Args:
        batch_size: Rows per training batch.
        shuffle: Whether to shuffle the training rows each epoch.
        scale_target: Subtract the mean of the training targets from all targets and
            divide by their standard deviation.
        scale_input: The same for each feature.

    References:
        See `gradguard.models.mlp.MLP`.
    """

    def __init__(
        self,
        *,
        batch_size: int = 32,
        shuffle: bool = True,
        scale_target: bool = False,
        scale_input: bool = False,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.scale_target = scale_target
        self.scale_input = scale_input

    @override
    def setup(self, stage: str) -> None:
        arrays = make_regression(
            n_samples=1000, n_features=20, noise=0.1, random_state=1
        )
        x, y = (torch.from_numpy(array) for array in arrays)
        x = standardize(x) if self.scale_input else x
        y = standardize(y) if self.scale_target else y
        self.train = x[:NUM_TRAIN].float(), y[:NUM_TRAIN].float()
        self.test = x[NUM_TRAIN:].float(), y[NUM_TRAIN:].float()

    @override
    def train_dataloader(self) -> Batches:
        return Batches(
            *self.train,
            batch_size=self.batch_size,
            shuffle=self.shuffle,
            sharded=True,
        )

    def train_eval_dataloader(self) -> Batches:
        """Return the training rows in order, in one batch, to evaluate on."""
        return Batches(*self.train)

    @override
    def val_dataloader(self) -> Batches:
        return self.test_dataloader()

    @override
    def test_dataloader(self) -> Batches:
        return Batches(*self.test)


def standardize(rows: Tensor) -> Tensor:
    """Return (rows - mean) / deviation, both taken over the training rows alone."""
    deviation, mean = torch.std_mean(rows[:NUM_TRAIN], dim=0, correction=0)
    return (rows - mean) / deviation
