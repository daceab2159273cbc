"""The claims that need no training: a clipped vector, a chain of weights, a map."""

from functools import partial

from gradguard.reproduction.claims import vectors
from gradguard.reproduction.claims.documents import (
    BROWNLEE,
    CSDN,
    CSDN_GRADIENT,
    STABILITY,
)
from gradguard.reproduction.figures import charts, sketches
from gradguard.reproduction.study import Band, Study, Trial

_THREE_FOUR_TWELVE = partial(vectors.clipped, (3.0, 4.0), (12.0,), max_norm=1.0)

_TARGET = Study(
    "mlp-target",
    "Targets lie between -400 and 400",
    BROWNLEE,
    "The targets have a Gaussian distribution between -400 and 400 with a mean of about "
    "zero.",
    (Trial("all 1000", compute=vectors.range_of_targets),),
    ("least", "largest", "mean", "sd"),
    expected=(
        Band("all 1000", "least", low=-400),
        Band("all 1000", "largest", high=400),
        Band("all 1000", "mean", low=-10, high=10),
    ),
    bands=(
        Band("all 1000", "least", low=-437, high=-435),
        Band("all 1000", "largest", low=574, high=576),
    ),
    reading="Nearly: the range was read off the plot. Targets of this size are what "
    "makes the gradients explode (mlp-scaled).",
    figure=sketches.target,
)

_CLIP = Study(
    "clip-vector",
    "Clipping [1, 2, 3, 4, 5] to 3",
    CSDN,
    "clip_grad_norm_ on [1, 2, 3, 4, 5] with max_norm 3 gives [0.539, 1.078, .., 2.694] "
    "and the norm after clipping, 3.162.",
    (
        Trial("as printed", compute=vectors.clipped_as_printed),
        Trial("torch", compute=vectors.clipped_by_torch),
        Trial(
            "gradguard",
            compute=partial(vectors.clipped, CSDN_GRADIENT, max_norm=vectors.MAX_NORM),
        ),
        Trial("the document's formula", compute=vectors.clipped_by_formula),
    ),
    ("first", "norm", "returned"),
    expected=(
        Band("torch", "first", low=0.5388, high=0.5389),
        Band("torch", "returned", high=3),
        Band("as printed", "norm", high=3),
    ),
    bands=(
        Band("torch", "first", low=0.404519, high=0.404521),
        Band("torch", "norm", low=2.999999, high=3.000001),
        Band("torch", "returned", low=7.41619, high=7.41621),
        Band("gradguard", "first", low="torch", high="torch"),
    ),
    reading="torch returns the norm before clipping, the square root of 55, and the "
    "clipped vector is 3/7.416 of the gradient. What is printed has norm 4, and what it "
    "calls the norm is the square root of 10. The code as written does not run (a numpy "
    "array has no gradient), and the formula gives a vector of length one millionth.",
    figure=sketches.clipped_vector,
)

_THIRTEEN = Study(
    "clip-thirteen",
    "Clipping shrinks, and vice versa",
    STABILITY,
    "Gradients are scaled by threshold / norm where they are too large, and vice versa.",
    (
        Trial("(3, 4) and (12), norm 1", compute=_THREE_FOUR_TWELVE),
        Trial(
            "(3, 4) and (12), norm 1 per parameter",
            compute=partial(_THREE_FOUR_TWELVE, per_parameter=True),
        ),
        Trial(
            "(0.3, 0.4), norm 1",
            compute=partial(vectors.clipped, (0.3, 0.4), max_norm=1.0),
        ),
    ),
    ("returned", "norm", "coefficient"),
    expected=(
        Band("(3, 4) and (12), norm 1", "norm", low=0.9999, high=1.0001),
        Band("(0.3, 0.4), norm 1", "norm", low=0.9999, high=1.0001),
    ),
    bands=(
        Band("(3, 4) and (12), norm 1", "returned", low=13, high=13),
        Band("(3, 4) and (12), norm 1", "norm", low=0.9999, high=1.0001),
        Band("(0.3, 0.4), norm 1", "coefficient", low=1, high=1),
    ),
    reading="Shrinking is what every library does; none enlarges a small gradient.",
    figure=partial(charts.dots, number="norm"),
)

_CHAIN = Study(
    "chain",
    "0.8^50 vanishes, 1.2^50 explodes",
    STABILITY,
    "0.8^50 = 0.000014 and 1.2^50 = 9100: fifty layers vanish, or explode.",
    tuple(
        Trial(f"weights {weight}", compute=partial(vectors.chain, weight))
        for weight in (0.8, 1.2)
    ),
    ("output", "value"),
    expected=(
        Band("weights 0.8", "output", low=1.4e-5, high=1.5e-5),
        Band("weights 1.2", "output", low=9100, high=9101),
    ),
    bands=(
        Band("weights 0.8", "value", low=1.784e-5, high=1.785e-5),
        Band("weights 1.2", "value", low=7583, high=7584),
    ),
    reading="So it is; the derivative by the first weight has a factor less, 49.",
    figure=sketches.chain,
)

_LOGISTIC = Study(
    "logistic-map",
    "Both in six iterations of one map",
    STABILITY,
    "f(x) = 3.5 x (1 - x), applied six times, has very large derivatives, and "
    "others that are almost zero.",
    (Trial("f", compute=vectors.largest_slopes),),
    ("slope_1", "slope_2", "slope_3", "slope_6", "flat"),
    expected=(Band("f", "slope_6", low=1000), Band("f", "flat", low=0.01)),
    bands=(
        Band("f", "slope_1", low=3.499, high=3.501),
        Band("f", "slope_2", low=12.24, high=12.26),
        Band("f", "slope_3", low=42.86, high=42.88),
        Band("f", "slope_6", low=1837, high=1839),
    ),
    reading="Both in one function: a derivative of 1838, and on a tenth of the interval "
    "one below 0.1.",
    figure=sketches.logistic,
)

ARITHMETIC_STUDIES = (_TARGET, _CLIP, _THIRTEEN, _CHAIN, _LOGISTIC)
