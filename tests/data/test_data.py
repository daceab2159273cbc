"""The bundled data are those of the source documents, row by row."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import make_circles, make_regression
from torch import Tensor

from gradguard.data.batches import Batches
from gradguard.data.circles import CirclesData
from gradguard.data.digit_sum import DigitSumData
from gradguard.data.regression import RegressionData


def regression(
    *, scale_target: bool = False, scale_input: bool = False
) -> RegressionData:
    data = RegressionData(scale_target=scale_target, scale_input=scale_input)
    data.setup("fit")
    return data


def digit_sum(length: int) -> DigitSumData:
    data = DigitSumData(length=length)
    data.setup("fit")
    return data


def only_batch(batches: Batches) -> tuple[Tensor, ...]:
    (batch,) = batches
    return batch


def test_batches_cover_every_row_once_when_shuffled() -> None:
    rows = torch.arange(10)

    batches = list(Batches(rows, 2 * rows, batch_size=4, shuffle=True))

    assert [len(x) for x, _ in batches] == [4, 4, 2]
    assert torch.cat([x for x, _ in batches]).sort().values.equal(rows)
    assert all(y.equal(2 * x) for x, y in batches)


def test_batches_shuffle_anew_in_each_epoch() -> None:
    batches = Batches(torch.arange(100), shuffle=True)

    assert not only_batch(batches)[0].equal(only_batch(batches)[0])


def test_batches_shuffle_alike_from_the_same_seed() -> None:
    def first_epoch() -> Tensor:
        torch.manual_seed(0)
        return only_batch(Batches(torch.arange(100), shuffle=True))[0]

    assert first_epoch().equal(first_epoch())


@pytest.mark.parametrize(
    ("rows", "batch_size", "expected"), [(500, 32, 16), (64, 64, 1), (65, 64, 2)]
)
def test_batches_have_the_length_they_yield(
    rows: int, batch_size: int, expected: int
) -> None:
    batches = Batches(torch.arange(rows), batch_size=batch_size)

    assert len(batches) == len(list(batches)) == expected


def test_regression_splits_the_rows_in_halves() -> None:
    x, y = make_regression(n_samples=1000, n_features=20, noise=0.1, random_state=1)
    data = regression()

    x_train, y_train = only_batch(data.train_eval_dataloader())
    x_test, y_test = only_batch(data.test_dataloader())

    assert np.array_equal(torch.cat([x_train, x_test]), x.astype(np.float32))
    assert np.array_equal(torch.cat([y_train, y_test]), y.astype(np.float32))
    assert len(x_train) == len(x_test) == 500


def test_regression_trains_in_shuffled_batches_of_32() -> None:
    data = regression()

    batches = list(data.train_dataloader())

    assert [len(y) for _, y in batches] == [32] * 15 + [20]
    _, in_order = only_batch(data.train_eval_dataloader())
    assert not torch.cat([y for _, y in batches]).equal(in_order)


def test_regression_validates_on_the_test_rows() -> None:
    data = regression()

    _, y_val = only_batch(data.val_dataloader())

    assert y_val.equal(only_batch(data.test_dataloader())[1])


def test_scale_target_uses_the_training_rows_alone() -> None:
    x, y = make_regression(n_samples=1000, n_features=20, noise=0.1, random_state=1)
    expected = (y - y[:500].mean()) / y[:500].std()

    data = regression(scale_target=True)

    x_train, y_train = only_batch(data.train_eval_dataloader())
    _, y_test = only_batch(data.test_dataloader())
    torch.testing.assert_close(y_train, torch.from_numpy(expected[:500]).float())
    torch.testing.assert_close(y_test, torch.from_numpy(expected[500:]).float())
    assert np.array_equal(x_train, x[:500].astype(np.float32))


def test_scale_input_uses_the_training_rows_alone() -> None:
    x, y = make_regression(n_samples=1000, n_features=20, noise=0.1, random_state=1)
    expected = (x - x[:500].mean(axis=0)) / x[:500].std(axis=0)

    data = regression(scale_input=True)

    x_train, y_train = only_batch(data.train_eval_dataloader())
    x_test, _ = only_batch(data.test_dataloader())
    torch.testing.assert_close(x_train, torch.from_numpy(expected[:500]).float())
    torch.testing.assert_close(x_test, torch.from_numpy(expected[500:]).float())
    assert np.array_equal(y_train, y[:500].astype(np.float32))


def test_circles_are_those_of_the_source() -> None:
    np.random.seed(42)  # noqa: NPY002 (the source's own line)
    points, labels = make_circles(n_samples=1000, factor=0.5, noise=0.1)
    data = CirclesData()

    data.setup("fit")

    for batches in (data.train_eval_dataloader(), data.test_dataloader()):
        our_points, our_labels = only_batch(batches)
        assert np.array_equal(our_points, points.astype(np.float32))
        assert np.array_equal(our_labels, labels)


def test_circles_label_1_is_the_inner_circle() -> None:
    data = CirclesData()
    data.setup("fit")

    points, labels = only_batch(data.test_dataloader())

    radius = points.norm(dim=1)
    assert radius[labels == 1].mean() < 0.6
    assert radius[labels == 0].mean() > 0.9


def test_digit_sum_begins_with_the_sequences_of_the_source() -> None:
    digits, sums = only_batch(digit_sum(5).train_eval_dataloader())

    assert digits[:4].tolist() == [
        [0, 0, 5, 0, 0],
        [0, 0, 3, 0, 0],
        [0, 0, 0, 3, 0],
        [0, 1, 0, 2, 0],
    ]
    assert sums[:4].tolist() == [0, 0, 0, 1]


def test_digit_sum_replays_the_source_at_every_length() -> None:
    np.random.seed(0)  # noqa: NPY002 (the source's own line)
    for length in [5, 10, 15, 20, 25, 30, 35]:
        data = digit_sum(length)
        loaders = (
            (3, data.train_eval_dataloader()),
            (1, data.val_dataloader()),
            (1, data.test_dataloader()),
        )
        for k, loader in loaders:
            digits, sums = only_batch(loader)

            assert (digits.tolist(), sums.tolist()) == source_examples(length, k)


def source_examples(length: int, k: int) -> tuple[list[list[int]], list[int]]:
    """What the source's `generate_data` writes, from numpy's global generator."""
    examples = []
    for n1 in range(10):
        for n2 in range(10):
            for _ in range(k):
                idx = np.random.randint(2, length)  # noqa: NPY002 (as the source)
                val = np.random.randint(0, 10)  # noqa: NPY002 (as the source)
                seq = [n1, n2] + [0] * (length - 2)
                seq[idx] = val
                examples.append((seq, n1 + n2))
    return [seq for seq, _ in examples], [label for _, label in examples]


def test_digit_sum_trains_in_order_in_batches_of_64() -> None:
    data = digit_sum(20)

    batches = list(data.train_dataloader())

    assert [tuple(digits.shape) for digits, _ in batches] == [(64, 20)] * 4 + [(44, 20)]
    digits, _ = only_batch(data.train_eval_dataloader())
    assert torch.cat([batch for batch, _ in batches]).equal(digits)


def test_digit_sum_shuffles_when_asked() -> None:
    data = DigitSumData(shuffle=True)
    data.setup("fit")

    shuffled = torch.cat([sums for _, sums in data.train_dataloader()])

    _, in_order = only_batch(data.train_eval_dataloader())
    assert not shuffled.equal(in_order)
    assert shuffled.sort().values.equal(in_order.sort().values)


@pytest.mark.parametrize("length", [3, 7, 100])
def test_digit_sum_makes_any_other_length_the_same_every_time(length: int) -> None:
    digits, sums = only_batch(digit_sum(length).train_eval_dataloader())

    assert digits.shape == (300, length)
    assert sums.equal(digits[:, 0] + digits[:, 1])
    assert digits.equal(only_batch(digit_sum(length).train_eval_dataloader())[0])


def test_digit_sum_leaves_the_global_generators_alone() -> None:
    np.random.seed(0)  # noqa: NPY002 (the global generator is what is tested)
    expected = np.random.rand()  # noqa: NPY002 (as above)
    np.random.seed(0)  # noqa: NPY002 (as above)

    digit_sum(20)

    assert np.random.rand() == expected  # noqa: NPY002 (as above)


def test_digit_sum_refuses_a_length_without_room_for_a_random_digit() -> None:
    with pytest.raises(ValueError, match=r"^length must be at least 3, got 2$"):
        DigitSumData(length=2)


@pytest.mark.parametrize("package", ["gradguard.data", "gradguard.models"])
def test_importing_the_package_does_not_import_torch(package: str) -> None:
    probe = f"import sys, {package}; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


def test_regression_targets_are_as_large_as_in_the_source() -> None:
    _, y = only_batch(regression().train_eval_dataloader())

    assert math.isclose(y.std(correction=0), math.sqrt(20381), rel_tol=1e-4)
