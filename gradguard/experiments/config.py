"""Experiments: what is trained, on what data, and how its gradients are clipped."""

import inspect
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    TypeAlias,
    Union,
    get_args,
    get_origin,
)

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
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)
from typing_extensions import Self

from gradguard import scalars
from gradguard.clipping.spec import POLICIES, either
from gradguard.errors import ConfigError
from gradguard.experiments.mistakes import sentence
from gradguard.guard.action import Action
from gradguard.guard.spike import LEAST_WINDOW, Spike, Watched
from gradguard.names import nearest
from gradguard.records.clips import BY_NAME

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
    """A mapping of an experiment file: unknown keys, other types, NaN and Inf refused.

    Where yes or no is asked for, `yes`, `no`, `on` and `off` say it; where a number is,
    1_000 is one. Elsewhere both are texts, as in YAML 1.2.
    """

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, frozen=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _read_as_asked(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, str):
            return value
        wanted = set(_plain_types(cls.model_fields[info.field_name or ""].annotation))
        if bool in wanted and not value.isdigit():
            found: object = scalars.switch(value)
        elif wanted & {int, float} and "_" in value:
            found = scalars.number(value)
        else:
            return value
        return value if found is None else found


def _plain_types(annotation: Any) -> Iterator[Any]:
    """Yield what a field may be, without its ranges: int and None of `PositiveInt | None`."""
    if get_origin(annotation) in (Union, UnionType, Annotated):
        for part in get_args(annotation):
            yield from _plain_types(part)
    else:
        yield annotation


class Named(Section):
    """The settings of a model: its name, and the options of its constructor."""

    name: str


class _Policy(Section):
    """One clipping policy: its kind with its number, beside it its other fields."""

    @model_validator(mode="after")
    def _is_one_policy(self) -> Self:
        kinds = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(f"should have one of {either(_KINDS)}")
        for option, owners in _owners().items():
            if getattr(self, option) and kinds[0] not in owners:
                raise ValueError(f"should have {either(owners)} where it has {option}")
        return self

    @property
    def kind(self) -> str:
        """The kind of policy it is."""
        return next(kind for kind in _KINDS if getattr(self, kind) is not None)

    @property
    def number(self) -> Any:
        """The number of its kind; of `by_name` the policies by pattern."""
        return getattr(self, self.kind)

    @property
    def options(self) -> dict[str, Any]:
        """Its other fields, as far as they are given."""
        row = POLICIES.get(self.kind)
        given = {name: getattr(self, name) for name in row.options} if row else {}
        return {name: value for name, value in given.items() if value}

    def __str__(self) -> str:
        if self.kind == BY_NAME:
            parts = (f"{name} {_in_words(clip)}" for name, clip in self.number.items())
            return f"by name ({'; '.join(parts)})"
        each = " per parameter" if self.options.get("per_parameter") else ""
        return f"{self.kind} {self.number:g}{each}"


_KINDS = (*POLICIES, BY_NAME)

# By the type of an option's default, what may be given for it: any positive number, of
# which the policy says whether it may be infinite.
_TYPES: dict[type, Any] = {
    bool: bool,
    int: PositiveInt,
    float: Annotated[float, Field(gt=0, allow_inf_nan=True)],
    tuple: list[str],
}


def _owners() -> dict[str, list[str]]:
    """Return the kinds that have each option."""
    owners: dict[str, list[str]] = {}
    for kind, row in POLICIES.items():
        for option in row.options:
            owners.setdefault(option, []).append(kind)
    return owners


def _policy_fields() -> dict[str, Any]:
    """Return the fields of all policies, none of which has to be given."""
    fields: dict[str, Any] = {}
    for kind, row in POLICIES.items():
        number = Annotated[PositiveFloat, Field(le=row.at_most)]
        fields[kind] = (number | None, None)
    fields[BY_NAME] = (dict[str, list["PolicySettings"]] | None, None)
    for row in POLICIES.values():
        for option, default in row.options.items():
            fields[option] = (_TYPES[type(default)] | None, None)
    return fields


if TYPE_CHECKING:  # the fields are those of the table
    PolicySettings: TypeAlias = _Policy
else:
    PolicySettings = create_model(
        "PolicySettings", __base__=_Policy, __module__=__name__, **_policy_fields()
    )


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


def _spike_options(value: object) -> object:
    """Accept "skip" and "skip:8" beside a mapping."""
    if not isinstance(value, str):
        return value
    action, colon, sigma = (part.strip() for part in value.partition(":"))
    number = scalars.number(sigma)
    given = {"sigma": sigma if number is None else number} if colon else {}
    return {"action": action, **given}


class SpikeOptions(Section):
    """The options of `gradguard.Spike`."""

    action: Action = "skip"
    sigma: PositiveFloat = Spike.sigma
    window: Annotated[int, Field(ge=LEAST_WINDOW)] = Spike.window
    watch: Annotated[list[Watched], Field(min_length=1)] = list(Spike.watch)

    @property
    def value(self) -> Spike:
        """What GradGuard takes."""
        return Spike(**self.model_dump())


_Directory = Annotated[str, Field(min_length=1), AfterValidator(os.path.expanduser)]


class Experiment(Section):
    """Everything that decides a run, and nothing else.

    Attributes:
        name: Directory of its runs below `log_dir`.
        model: `name`, and the options of that LightningModule.
        data: Options of the LightningDataModule the model is trained on.
        clip: Policies in the order they are applied.
        on_nonfinite: What to do with a step whose gradients hold a NaN or an Inf.
        on_spike: What to do with a finite step far above the recent ones.
        max_consecutive_skips: Skips in a row after which the next non-finite step raises
            and the next spike counts as usual.
        dump_dir: Where to save what replays the first such step; None saves nothing.
        layer_statistics: Whether to record weights and gradients by epoch.
        trainer: Options of the Trainer.
        seed: Seeds weights and shuffling.
        log_dir: Where the runs of all experiments are.
    """

    name: Annotated[str, Field(min_length=1)]
    model: Named
    data: Section
    clip: list[PolicySettings] = []
    on_nonfinite: Action = "record"
    on_spike: Annotated[SpikeOptions, BeforeValidator(_spike_options)] = SpikeOptions(
        action="record"
    )
    max_consecutive_skips: PositiveInt = 10
    dump_dir: _Directory | None = None
    layer_statistics: bool = False
    trainer: TrainerOptions = TrainerOptions()
    seed: Annotated[NonNegativeInt, Field(lt=2**32)] = 0
    log_dir: _Directory = "runs"

    @model_validator(mode="after")
    def _clips_once(self) -> Self:
        if self.clip and self.trainer.gradient_clip_val is not None:
            raise ValueError(
                f"clip ({_in_words(self.clip)}) and trainer.gradient_clip_val "
                f"({self.trainer.gradient_clip_val:g}) would clip twice, keep one of them"
            )
        return self

    @model_validator(mode="after")
    def _dumps_what_it_stops(self) -> Self:
        actions = {self.on_nonfinite, self.on_spike.action}
        if self.dump_dir is not None and actions == {"record"}:
            raise ValueError(
                f"dump_dir ({self.dump_dir}) needs on_nonfinite or on_spike skip or raise, "
                "got record"
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


def _in_words(clip: list[PolicySettings]) -> str:
    return ", then ".join(map(str, clip))
