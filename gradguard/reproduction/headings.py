"""What the measured numbers are called on the page."""

HEADINGS = {
    "train_loss": "train loss",
    "test_loss": "test loss",
    "train_mse": "train MSE",
    "test_mse": "test MSE",
    "train_accuracy": "train accuracy",
    "test_accuracy": "test accuracy",
    "first_total_before": "first total before",
    "largest_total_before": "largest total before",
    "median_total_before": "median total before, steps >= 20",
    "largest_total_after": "largest total after",
    "largest_after": "largest parameter norm after",
    "largest_rms_after": "largest root mean square after",
    "clip_fraction": "clip fraction",
    "first_nonfinite_loss": "loss non-finite from step",
    "nonfinite_losses": "steps of non-finite loss",
    "epoch_below_100": "loss below 100 from epoch",
    "dead": "dead units",
    "saturated": "saturated units",
    "first_hidden_before": "first layer at step 0",
    "first_over_last_hidden": "first / last hidden layer at step 0",
    "first_over_output": "first / output layer, median",
    "recurrent_first": "first W, U, b before",
    "recurrent_largest": "largest W, U, b before in 40 steps",
    "recurrent_growth": "largest / first W, U, b before",
    "recurrent_smallest": "smallest W, U, b before",
    "recurrent_gone": "share of steps >= 20 below 0.001",
    "first_faded": "first layer, last / first epoch",
    "output_faded": "output layer, last / first epoch",
    "first_sd_growth": "growth of weight s.d., first layer",
    "other_sd_growth": "growth of weight s.d., other hidden layers",
    "gradient_sd": "gradient s.d. after, hidden layers",
    "mean_share": "abs mean / mean abs of gradients",
    "least": "least",
    "largest": "largest",
    "mean": "mean",
    "sd": "standard deviation",
    "first": "first element",
    "norm": "norm after",
    "returned": "norm before",
    "coefficient": "coefficient",
    "output": "y",
    "value": "dy / dw_1",
    "slope_1": "largest slope, 1 iteration",
    "slope_2": "largest slope, 2 iterations",
    "slope_3": "largest slope, 3 iterations",
    "slope_6": "largest slope, 6 iterations",
    "flat": "slope < 0.1, share",
}


# From 0 to 1, and drawn so.
SHARES = {"train_accuracy", "test_accuracy", "clip_fraction", "dead", "saturated"}

_TIMES = {"first_nonfinite_loss", "epoch_below_100"}
_PLAIN = range(1000, 100_000)  # written out, where 1e+03 would hide digits


def written(number: str, value: float) -> str:
    """Return the value with three digits or more; a step that never came is "never"."""
    if number in _TIMES and value == float("inf"):
        return "never"
    return f"{value:,.0f}" if abs(value) // 1 in _PLAIN else f"{value:.3g}"
