"""What gradguard reads of a Trainer, held to those of both namespaces of Lightning."""

from importlib import import_module

import pytest

from gradguard.hooks import trainer

ATTRIBUTES = [name for name in vars(trainer.Trainer) if not name.startswith("_")]


@pytest.mark.parametrize("namespace", ["lightning.pytorch", "pytorch_lightning"])
@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_trainer_has_what_is_read_of_it(namespace: str, attribute: str) -> None:
    real = import_module(namespace).Trainer(accelerator="cpu", logger=False)

    assert hasattr(real, attribute)
