"""Sequences of digits whose label is the sum of the first two."""

from itertools import product

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from typing_extensions import override

from gradguard.data.batches import Batches

MIN_LENGTH = 3  # the two digits and a place for the random one
LENGTHS = (5, 10, 15, 20, 25, 30, 35)
REPEATS = {"train": 3, "val": 1, "test": 1}


class DigitSumData(LightningDataModule):
    """Digits of shape `[N, length]` and sums of shape `[N]`, from 0 to 18.

    A sequence is two digits, then zeros of which one is overwritten by a random digit.
    Each set holds all 100 pairs of digits: training three times each, validation and
    test once. At the lengths 5, 10, .. 35 the sequences are those of the source.

    Args:
        length: Digits per sequence, at least 3.
        batch_size: Sequences per training batch.
        shuffle: Whether to shuffle the training sequences each epoch; the source
            leaves them in the order of their pairs.

    Raises:
        ValueError: If `length` is less than 3.

    References:
        See `gradguard.models.srn.SRN`.
    """

    def __init__(
        self, *, length: int = 20, batch_size: int = 64, shuffle: bool = False
    ) -> None:
        if length < MIN_LENGTH:
            raise ValueError(f"length must be at least {MIN_LENGTH}, got {length}")
        super().__init__()
        self.length = length
        self.batch_size = batch_size
        self.shuffle = shuffle

    @override
    def setup(self, stage: str) -> None:
        random = random_state(self.length)
        self.sets = {
            name: digit_sums(self.length, repeats=repeats, random=random)
            for name, repeats in REPEATS.items()
        }

    @override
    def train_dataloader(self) -> Batches:
        return Batches(
            *self.sets["train"],
            batch_size=self.batch_size,
            shuffle=self.shuffle,
            sharded=True,
        )

    def train_eval_dataloader(self) -> Batches:
        """Return the training sequences in order, in one batch, to evaluate on."""
        return Batches(*self.sets["train"])

    @override
    def val_dataloader(self) -> Batches:
        return Batches(*self.sets["val"])

    @override
    def test_dataloader(self) -> Batches:
        return Batches(*self.sets["test"])


def digit_sums(
    length: int, *, repeats: int, random: np.random.RandomState
) -> tuple[Tensor, Tensor]:
    """Return 100 * `repeats` sequences `[N, length]` and their sums `[N]`, by pair."""
    sequences, sums = [], []
    for first, second in product(range(10), range(10)):
        for _ in range(repeats):
            sequence = [first, second] + [0] * (length - 2)
            position = random.randint(2, length)
            sequence[position] = random.randint(0, 10)
            sequences.append(sequence)
            sums.append(first + second)
    return torch.tensor(sequences), torch.tensor(sums)


def random_state(length: int) -> np.random.RandomState:
    """Return the state in which the source generates the sequences of `length`.

    The source seeds once with 0 and generates all of `LENGTHS` in a row, so this
    draws what comes earlier. Any other length is seeded with itself.
    """
    if length not in LENGTHS:
        return np.random.RandomState(length)
    random = np.random.RandomState(0)
    for earlier in LENGTHS[: LENGTHS.index(length)]:
        for repeats in REPEATS.values():
            digit_sums(earlier, repeats=repeats, random=random)
    return random
