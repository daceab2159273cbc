"""What an experiment is made of: its model, its data, and what clips."""

from typing import TYPE_CHECKING, TypeAlias

from lightning.pytorch import LightningModule

from gradguard.clipping.agc import AdaptiveClip
from gradguard.clipping.by_name import ByName, check
from gradguard.clipping.fixed import ClipNorm, ClipValue
from gradguard.clipping.learned import AutoClip, ZClip
from gradguard.clipping.policy import Policy
from gradguard.errors import ConfigError
from gradguard.experiments.config import MODELS, Clip, Experiment, import_class

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
    policies = [_policy(clip) for clip in experiment.clip]
    try:
        check(policies, [name for name, _ in model.named_parameters()])
    except ValueError as error:
        raise ConfigError(f"clip: {error}") from None
    return policies


def _policy(clip: Clip) -> Policy:
    if clip.norm is not None:
        return ClipNorm(clip.norm, per_parameter=clip.per_parameter)
    if clip.value is not None:
        return ClipValue(clip.value)
    if clip.auto is not None:
        return AutoClip(clip.auto)
    if clip.zclip is not None:
        return ZClip(clip.zclip)
    if clip.agc is not None:
        return AdaptiveClip(clip.agc, exclude=tuple(clip.exclude))
    assert clip.by_name is not None  # by the rules of Clip
    return ByName(
        {name: [_policy(one) for one in clips] for name, clips in clip.by_name.items()}
    )
