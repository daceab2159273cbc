"""How commands show their help: options in groups, and examples behind them."""

from typing import Any

from typer.core import TyperCommand
from typing_extensions import override

# Parameters by group, in the order they are shown; all others are "Options".
GROUPS = {
    "Model": ("model", "config", "settings", "module"),
    "Training": (
        "max_epochs", "batch_size", "lr", "optimizer", "weight_decay", "seed", "resume",
    ),
    "Clip": (
        "clip_norm", "clip_value", "clip_order", "per_parameter", "clip", "clip_by_name",
    ),
    "Guard": ("on_nonfinite", "on_spike", "max_consecutive_skips"),
    "Hardware": ("accelerator", "devices", "num_nodes", "strategy", "precision"),
    "Output": (
        "log_dir", "log_every_n_steps", "layer_statistics", "as_json", "html",
        "interactive", "figure", "full", "layers",
    ),
}  # fmt: skip

# The way in, then one example for each command.
FIRST = "GRADGUARD=1 python your_training.py"
EXAMPLES = {
    "report": "gradguard report lightning_logs",
    "train": "gradguard train --model srn --clip-norm 5",
    "replay": "gradguard replay bad-steps/bad-step-340-rank-0.pt",
    "sweep": "gradguard sweep --model mlp --clip-norm none,1,5 --seeds 2",
    "reproduce": "gradguard reproduce --quick",
    "inspect": "gradguard inspect --model deep_mlp --set model.depth=30",
    "configs": "gradguard configs show srn-cured",
}

_GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}


class Grouped(TyperCommand):
    """A command whose options are shown in groups."""

    @override
    def format_options(self, ctx: Any, formatter: Any) -> None:
        shown: dict[str, list[Any]] = {
            group: [] for group in ("Arguments", *GROUPS, "Options")
        }
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                shown[_group(parameter)].append(record)
        for group, records in shown.items():
            if records:
                with formatter.section(group):
                    formatter.write_dl(records)


def _group(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return "Arguments"
    return _GROUP_OF.get(parameter.name, "Options")


def examples(*lines: str) -> str:
    """Return examples as what a help ends with, each on a line of its own."""
    return "Examples:\n\n\b\n" + "\n".join(f"  {line}" for line in lines)
