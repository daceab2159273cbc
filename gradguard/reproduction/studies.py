"""All studies by name, in the order of the documents."""

from collections.abc import Sequence

from gradguard.errors import ConfigError
from gradguard.names import nearest
from gradguard.reproduction.claims.arithmetic import ARITHMETIC_STUDIES
from gradguard.reproduction.claims.circles import CIRCLES_STUDIES
from gradguard.reproduction.claims.depth import DEPTH_STUDIES
from gradguard.reproduction.claims.mlp import MLP_STUDIES
from gradguard.reproduction.claims.srn import SRN_STUDIES
from gradguard.reproduction.claims.thresholds import THRESHOLD_STUDIES
from gradguard.reproduction.study import Study

STUDIES = {
    study.name: study
    for study in (
        *MLP_STUDIES,
        *THRESHOLD_STUDIES,
        *CIRCLES_STUDIES,
        *DEPTH_STUDIES,
        *SRN_STUDIES,
        *ARITHMETIC_STUDIES,
    )
}


def select(names: Sequence[str]) -> list[Study]:
    """Return the studies of these names, or all studies if no name is given.

    Raises:
        ConfigError: If there is none of a name.
    """
    for name in names:
        if name not in STUDIES:
            near = nearest(name, STUDIES)
            raise ConfigError(f"no experiment {name!r}, did you mean {near!r}?")
    return [STUDIES[name] for name in names or STUDIES]
