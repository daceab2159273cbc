"""What an experiment is made of: its model, its data, and what clips."""

from typing import TYPE_CHECKING, TypeAlias

from lightning.pytorch import LightningModule

from gradguard.clipping.policy import Policy, check
from gradguard.clipping.spec import make, make_by_name
from gradguard.errors import ConfigError
from gradguard.experiments.config import (
    MODELS,
    Experiment,
    PolicySettings,
    import_class,
)
from gradguard.records.clips import BY_NAME

if TYPE_CHECKING:  # scikit-learn takes a second, for the data that is asked for only
    from gradguard.data.circles import CirclesData
    from gradguard.data.digit_sum import DigitSumData
    from gradguard.data.regression import RegressionData

Data: TypeAlias = "CirclesData | DigitSumData | RegressionData"


def build(experiment: Experiment) -> tuple[LightningModule, Data, list[Policy]]:
    """Return the untrained model, its data and what clips, as the experiment says.

    Raises:
        ConfigError: If the settings do not fit each other.
    """
    model, data = _model_and_data(experiment)
    return model, data, _policies(experiment, model)


def _model_and_data(
    experiment: Experiment,
) -> tuple[LightningModule, Data]:
    network, data = map(import_class, MODELS[experiment.model.name])
    try:
        model = network(**experiment.model.model_dump(exclude={"name"}))
    except ValueError as error:
        raise ConfigError(f"model.{error}") from None
    except RuntimeError as error:  # there is no such room
        reason = (
            str(error).rpartition("DefaultCPUAllocator: ")[2].partition(" Error")[0]
        )
        raise ConfigError(f"model is too large: {reason}") from None
    try:
        return model, data(**experiment.data.model_dump())
    except ValueError as error:
        raise ConfigError(f"data.{error}") from None


def _policies(experiment: Experiment, model: LightningModule) -> list[Policy]:
    try:
        policies = [_policy(clip) for clip in experiment.clip]
        check(policies, [name for name, _ in model.named_parameters()])
    except ValueError as error:
        raise ConfigError(f"clip: {error}") from None
    return policies


def _policy(settings: PolicySettings) -> Policy:
    if settings.kind == BY_NAME:
        named = settings.number.items()
        return make_by_name(
            {pattern: [_policy(one) for one in inside] for pattern, inside in named}
        )
    return make(settings.kind, settings.number, **settings.options)
