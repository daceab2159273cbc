"""Tensors and samples of batches, whatever containers they are in."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from gradguard.replay.batch import changed, picked, size, tensors

Pair = namedtuple("Pair", ["x", "y"])


@dataclass(frozen=True)
class Graph:
    nodes: Tensor
    name: str


def rows(count: int = 3) -> Tensor:
    return torch.arange(count * 2.0).reshape(count, 2)


BATCHES = {
    "batch": rows(),
    "batch[1]": [torch.ones(3), rows()],
    "batch[0]['x']": ({"x": rows()}, torch.ones(3)),
    "batch.x": Pair(rows(), torch.ones(3)),
    "batch['graph'].nodes": OrderedDict(graph=Graph(rows(), "g")),
}


@pytest.mark.parametrize("path", BATCHES)
def test_path_leads_to_the_tensor(path: str) -> None:
    batch = BATCHES[path]

    found = {name: tensor for name, tensor in tensors(batch) if tensor.dim() == 2}

    assert torch.equal(eval(path, {"batch": batch}), *found.values())


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_containers_stay_what_they_are(batch: Any) -> None:
    doubled = changed(
        batch, lambda value: value * 2 if isinstance(value, Tensor) else value
    )

    assert type(doubled) is type(batch)
    for (path, before), (same, after) in zip(
        tensors(batch), tensors(doubled), strict=True
    ):
        assert path == same
        assert torch.equal(after, 2 * before)


def test_samples_are_picked_from_all_that_has_one_for_each() -> None:
    batch = {"x": rows(), "names": ["a", "b", "c"], "scale": torch.tensor(2.0), "k": 3}

    few = picked(batch, [2, 0])

    assert torch.equal(few["x"], torch.tensor([[4.0, 5.0], [0.0, 1.0]]))
    assert few["names"] == ["c", "a"]
    assert (float(few["scale"]), few["k"]) == (2.0, 3)


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (rows(4), 4),
        ({"x": rows(4), "y": torch.tensor(1.0)}, 4),
        ([rows(4), rows(5)], None),
        ({"text": ["a"]}, None),
        (torch.tensor(1.0), None),
    ],
)
def test_size_is_the_common_first_dimension(batch: Any, expected: int | None) -> None:
    assert size(batch) == expected
