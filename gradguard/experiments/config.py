"""Experiments: what is trained, on what data, and how its gradients are clipped."""

import inspect
import re
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    create_model,
    model_validator,
)
from typing_extensions import Self

from gradguard.errors import ConfigError
from gradguard.experiments.mistakes import sentence
from gradguard.names import nearest

# Every bundled model with the data it is trained on: "module:class" each, so that naming
# a model does not import torch.
MODELS = {
    "mlp": ("gradguard.models.mlp:MLP", "gradguard.data.regression:RegressionData"),
    "deep_mlp": (
        "gradguard.models.deep_mlp:DeepMLP",
        "gradguard.data.circles:CirclesData",
    ),
    "srn": ("gradguard.models.srn:SRN", "gradguard.data.digit_sum:DigitSumData"),
}


def import_class(path: str) -> type:
    """Return the class behind "module:class"."""
    module, name = path.split(":")
    found: type = getattr(import_module(module), name)
    return found


class Section(BaseModel):
    """A mapping of an experiment file: unknown keys, other types, NaN and Inf refused."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, frozen=True
    )


class Named(Section):
    """The settings of a model: its name, and the options of its constructor."""

    name: str


class Clip(Section):
    """One clipping policy: exactly one of the first six.

    Attributes:
        norm: `ClipNorm`, its largest norm.
        value: `ClipValue`, its largest absolute value.
        auto: `AutoClip`, its percentile.
        zclip: `ZClip`, its z-score.
        agc: `AdaptiveClip`, its largest gradient relative to the weights.
        by_name: `ByName`, policies by pattern of parameter names.
        per_parameter: Whether `norm` holds for each parameter by itself.
        exclude: Patterns of parameters that `agc` leaves alone.
    """

    norm: PositiveFloat | None = None
    value: PositiveFloat | None = None
    auto: Annotated[PositiveFloat, Field(le=100)] | None = None
    zclip: PositiveFloat | None = None
    agc: PositiveFloat | None = None
    by_name: dict[str, list["Clip"]] | None = None
    per_parameter: bool = False
    exclude: list[str] = []

    @model_validator(mode="after")
    def _is_one_policy(self) -> Self:
        if sum(getattr(self, kind) is not None for kind in _POLICIES) != 1:
            raise ValueError(
                f"should have one of {', '.join(_POLICIES[:-1])} or {_POLICIES[-1]}"
            )
        if self.per_parameter and self.norm is None:
            raise ValueError("should have norm where it has per_parameter")
        if self.exclude and self.agc is None:
            raise ValueError("should have agc where it has exclude")
        return self

    def __str__(self) -> str:
        if self.by_name is not None:
            parts = (f"{name} {_in_words(clip)}" for name, clip in self.by_name.items())
            return f"by name ({'; '.join(parts)})"
        kind = next(kind for kind in _POLICIES if getattr(self, kind) is not None)
        return f"{kind} {getattr(self, kind):g}{' per parameter' * self.per_parameter}"


_POLICIES = ("norm", "value", "auto", "zclip", "agc", "by_name")


def _device_list(value: object) -> str:
    """Accept 2, "auto", -1 (all of them), [0, 1] and "0,1"."""
    text = str(value).strip("[]").replace(" ", "")
    if not re.fullmatch(r"auto|-1|[1-9]\d*|\d+(,\d+)+|\d+,", text):
        raise ValueError('should be a number of devices, a list of them, or "auto"')
    return text


def _strategy_name(value: str) -> str:
    from lightning.pytorch.strategies import StrategyRegistry  # noqa: PLC0415 (heavy)

    names = ["auto", *StrategyRegistry.available_strategies()]
    if value not in names:
        raise ValueError(
            f"should be a strategy of Lightning such as {nearest(value, names)!r}"
        )
    return value


class TrainerOptions(Section):
    """The options of `lightning.pytorch.Trainer` that an experiment may set."""

    max_epochs: PositiveInt = 1
    max_steps: PositiveInt | None = None
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"] = "auto"
    devices: Annotated[str, BeforeValidator(_device_list)] = "1"
    num_nodes: PositiveInt = 1
    strategy: Annotated[str, AfterValidator(_strategy_name)] = "auto"
    precision: Annotated[
        Literal[
            "32-true", "64-true", "16-true", "bf16-true", "16-mixed", "bf16-mixed",
            "32", "64", "16", "bf16",
        ],
        BeforeValidator(str),
    ] = "32-true"  # fmt: skip
    accumulate_grad_batches: PositiveInt = 1
    deterministic: bool = False
    gradient_clip_val: PositiveFloat | None = None
    gradient_clip_algorithm: Literal["norm", "value"] | None = None
    log_every_n_steps: PositiveInt = 1


class Experiment(Section):
    """Everything that decides a run, and nothing else.

    Attributes:
        name: Directory of its runs below `log_dir`.
        model: `name`, and the options of that LightningModule.
        data: Options of the LightningDataModule the model is trained on.
        clip: Policies in the order they are applied.
        on_nonfinite: What to do with a step whose gradients hold a NaN or an Inf.
        max_consecutive_skips: Skips in a row after which the next one raises.
        layer_statistics: Whether to record weights and gradients by epoch.
        trainer: Options of the Trainer.
        seed: Seeds weights and shuffling.
        log_dir: Where the runs of all experiments are.
    """

    name: Annotated[str, Field(min_length=1)]
    model: Named
    data: Section
    clip: list[Clip] = []
    on_nonfinite: Literal["record", "skip", "raise"] = "record"
    max_consecutive_skips: PositiveInt = 10
    layer_statistics: bool = False
    trainer: TrainerOptions = TrainerOptions()
    seed: Annotated[NonNegativeInt, Field(lt=2**32)] = 0
    log_dir: Annotated[str, Field(min_length=1)] = "runs"

    @model_validator(mode="after")
    def _clips_once(self) -> Self:
        if self.clip and self.trainer.gradient_clip_val is not None:
            raise ValueError(
                f"clip ({_in_words(self.clip)}) and trainer.gradient_clip_val "
                f"({self.trainer.gradient_clip_val:g}) would clip twice, keep one of them"
            )
        return self

    @property
    def clipping(self) -> str:
        """What clips the gradients, in words: "norm 5, then value 1", or "none"."""
        if self.trainer.gradient_clip_val is not None:
            kind = self.trainer.gradient_clip_algorithm or "norm"
            return f"{kind} {self.trainer.gradient_clip_val:g}, by Lightning"
        return _in_words(self.clip) or "none"


@cache
def schema(model: str) -> type[Experiment]:
    """Return the schema of experiments with that model.

    The options are those of the constructors, which stay their only definition.
    """
    network, data = (import_class(path) for path in MODELS[model])
    return create_model(
        "Experiment",
        __base__=Experiment,
        model=(_options(network, Named, name=(Literal[model], ...)), ...),
        data=(_options(data, Section), ...),
    )


def validate(settings: Mapping[str, Any], *, model: str) -> Experiment:
    """Return the experiment that the settings describe.

    Raises:
        ConfigError: If a field is unknown, missing, or has a value it cannot have.
    """
    experiments = schema(model)
    try:
        return experiments.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(sentence(error.errors()[0], experiments)) from None


# Every number among the options is a count, a size, a rate or a factor.
_RANGES = {int: PositiveInt, float: NonNegativeFloat}


def _options(constructor: type, base: type[Section], **fields: Any) -> type[Section]:
    """Derive a section from the keyword options of a constructor."""
    for name, option in inspect.signature(constructor).parameters.items():
        kind = _RANGES.get(option.annotation, option.annotation)
        fields[name] = (kind, option.default)
    return create_model(constructor.__name__, __base__=base, **fields)


def _in_words(clip: list[Clip]) -> str:
    return ", then ".join(map(str, clip))
