"""Every name that stands in an event file only; the scalars' are in `records.intervals`."""

PLUGIN = "gradguard"

# Tensors: norms [K, P, 2] float32, steps [K] int64, loss [K] float32.
NORMS = "gradguard/norms"
STEPS = "gradguard/steps"
LOSS = "gradguard/loss"

# Tensor: by abandoned branch, its first step and how many steps are void, [B, 2] int64.
ABANDONED = "gradguard/abandoned"

# Tensors: statistics [E, P, 6] float32, epochs [E] int64.
EPOCHS = "gradguard/epochs"
EPOCH_NUMBERS = "gradguard/epoch_numbers"

# Tensor: where a bad step is saved, one text; its event is dated by that step.
SAVED_STEP = "gradguard/saved_step"

# Below the run's directory, one run each, so that TensorBoard draws them in two colours
# on the same chart.
BEFORE_RUN = "before"
AFTER_RUN = "after"


def parameter_tag(name: str) -> str:
    """Return the tag of one parameter's norms in the runs `before` and `after`."""
    return f"gradients/{name}"
