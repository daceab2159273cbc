"""Every parameter's gradient norm before and after clipping, for PyTorch Lightning.

Importing the package imports neither torch nor Lightning: TensorBoard imports every
installed plugin's package when it starts, and must start where torch is absent.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from gradguard.clipping.spec import HOMES

if TYPE_CHECKING:
    from gradguard.callback import GradGuard as GradGuard
    from gradguard.clipping.adagc import AdaGC as AdaGC
    from gradguard.clipping.agc import AdaptiveClip as AdaptiveClip
    from gradguard.clipping.by_name import ByName as ByName
    from gradguard.clipping.clipper import Clipper as Clipper
    from gradguard.clipping.fixed import ClipNorm as ClipNorm
    from gradguard.clipping.fixed import ClipValue as ClipValue
    from gradguard.clipping.learned import AutoClip as AutoClip
    from gradguard.clipping.learned import ZClip as ZClip
    from gradguard.clipping.warm_up import ClipNormWarmUp as ClipNormWarmUp
    from gradguard.errors import BadStepError as BadStepError
    from gradguard.errors import NonFiniteGradientError as NonFiniteGradientError
    from gradguard.errors import SpikeError as SpikeError
    from gradguard.guard.spike import Spike as Spike
    from gradguard.health.diagnosis import diagnose as diagnose
    from gradguard.replay.again import replay as replay
    from gradguard.tensorboard.reader import read_recordings as read_recordings
    from gradguard.tensorboard.reader import read_run as read_run

__version__ = "0.1.0"

_HOMES = {
    **HOMES,
    "BadStepError": "gradguard.errors",
    "Clipper": "gradguard.clipping.clipper",
    "GradGuard": "gradguard.callback",
    "NonFiniteGradientError": "gradguard.errors",
    "Spike": "gradguard.guard.spike",
    "SpikeError": "gradguard.errors",
    "diagnose": "gradguard.health.diagnosis",
    "read_recordings": "gradguard.tensorboard.reader",
    "read_run": "gradguard.tensorboard.reader",
}

# Packages that are called as functions.
_VERBS = ("replay",)

__all__ = [*_HOMES, *_VERBS, "__version__"]  # noqa: PLE0604 (names, all of them)


def __getattr__(name: str) -> object:
    if name in _VERBS:
        return import_module(f"gradguard.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'gradguard' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
