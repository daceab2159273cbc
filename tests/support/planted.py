"""Steps with one planted fault each."""

# Modules are called, and custom Functions applied, on every other line; torch types neither.
# mypy: disable-error-code="no-any-return,no-untyped-call"

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

INF, NAN = float("inf"), float("nan")
ROWS = torch.arange(1.0, 13.0).reshape(3, 4)


class Net(nn.Module):
    """The mean of what a function makes of the batch, which first passes `input`."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.input = identity(4)
        self.block = Block(function)

    def forward(self, batch: Tensor) -> Tensor:
        return self.block(self.input(batch)).float().mean()


class Block(nn.Module):
    """A module whose code is a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def identity(size: int) -> nn.Linear:
    """A linear layer that changes nothing, so that inputs are what the test says."""
    layer = nn.Linear(size, size)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


@dataclass
class Fault:
    """A step that breaks, and what is to be said of it."""

    title: str
    module: Callable[[], nn.Module]
    name: str
    direction: Literal["forward", "backward"] | None
    line: str
    path: str = "block"
    batches: dict[int, Any] = field(default_factory=lambda: {0: ROWS})
    kind: str = "operation"
    hidden_by: str | None = None
    micro_batch: int = 0
    rows: tuple[int, ...] = ()
    autocast: torch.dtype | None = None
    loss_scale: float = 1.0


# Forward ----------------------------------------------------------------------------


def log_of_zero(x: Tensor) -> Tensor:
    y = x * 0
    return y.log()


def zero_by_zero(x: Tensor) -> Tensor:
    y = x - x
    return y / y


def one_by_zero(x: Tensor) -> Tensor:
    y = x - x
    return 1 / y


def divided_row_by_row(x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    for row in range(len(x)):
        out[row] = x[row] / (x[row, 0] - 1)
    return out


def divided_in_place(x: Tensor) -> Tensor:
    y = x.clone()
    y /= x[:, :1] - 1
    return y


def slice_logged_in_place(x: Tensor) -> Tensor:
    y = x - 1
    y[0].log_()
    return y * 2


def written_by_out(x: Tensor) -> Tensor:
    with torch.no_grad():
        weight = torch.empty(3, 4)
        torch.log(x - 1, out=weight)
    return x * weight


def exp_overflow(x: Tensor) -> Tensor:
    return torch.exp(x * 100).sum(dim=1)


def softmax_by_hand(x: Tensor) -> Tensor:
    e = (x * 50).exp()
    return e / e.sum(dim=-1, keepdim=True)


def fully_masked_softmax(x: Tensor) -> Tensor:
    scores = x.masked_fill(x > 4, -INF)
    return scores.softmax(dim=-1)


def fully_masked_by_adding(x: Tensor) -> Tensor:
    mask = torch.zeros(3, 4)
    mask[1] = -INF
    return torch.softmax(x + mask, dim=-1)


def all_of_logsumexp(x: Tensor) -> Tensor:
    scores = torch.full((3, 4), -INF) + x
    return scores.logsumexp(dim=-1)


def mask_times_inf(x: Tensor) -> Tensor:
    mask = (x > 4).float()
    return x + mask * -INF


def variance_of_one_row(x: Tensor) -> Tensor:
    return x[:1].var(dim=0)


def power_of_zero(x: Tensor) -> Tensor:
    return (x - 1).pow(-1)


def root_of_negative(x: Tensor) -> Tensor:
    return (x - 2).sqrt()


def acos_beyond_one(x: Tensor) -> Tensor:
    return x.acos()


def normalized_by_hand(x: Tensor) -> Tensor:
    centered = x - x
    return centered / centered.square().sum(dim=-1, keepdim=True).sqrt()


def layer_norm_by_hand(x: Tensor) -> Tensor:
    y = x[:, :1].expand(-1, 4)
    centered = y - y.mean(dim=-1, keepdim=True)
    return centered / centered.var(dim=-1, keepdim=True)


def log_softmax_by_hand(x: Tensor) -> Tensor:
    return x - torch.log((x * 30).exp().sum(dim=-1, keepdim=True))


def log_of_underflow(x: Tensor) -> Tensor:
    p = torch.softmax(x * 200, dim=-1)
    return -(p * p.log()).sum(dim=-1)


def entropy_of_masked(x: Tensor) -> Tensor:
    scores = x.masked_fill(x == 2, -INF)
    logged = scores.log_softmax(dim=-1)
    return -(logged.exp() * logged).sum(dim=-1)


def nothing_to_average(x: Tensor) -> Tensor:
    return x[x > 100].mean()


def all_targets_ignored(x: Tensor) -> Tensor:
    targets = torch.full((3,), -100)
    return functional.cross_entropy(x, targets)


def entropy_by_hand(x: Tensor) -> Tensor:
    p = torch.sigmoid(x * 40)
    return -(torch.log(1 - p))


def average_by_count(x: Tensor) -> Tensor:
    count = (x > 100).sum()
    return x[x > 100].sum() / count


def exponent_of_integers(x: Tensor) -> Tensor:
    steps = torch.arange(3) * 0
    return x / steps[:, None]


def loop_that_grows(x: Tensor) -> Tensor:
    for _ in range(8):
        x = x * x
    return x


def half_sum(x: Tensor) -> Tensor:
    y = (x * 5000).half()
    return y.sum()


def cast_to_half(x: Tensor) -> Tensor:
    y = x * 1e5
    return y.half()


def complex_log(x: Tensor) -> Tensor:
    z = torch.complex(x - 1, x - 1)
    return torch.log(z).real


def sparse_log(x: Tensor) -> Tensor:
    y = (x - 1).to_sparse().coalesce()
    values = y.values() * 0
    return values.log()


class Log(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.log()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient / x


class Root(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.sqrt()

    @staticmethod
    def setup_context(ctx: Any, _: Any, output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (output,) = ctx.saved_tensors
        return gradient / (2 * output)


def custom_forward(x: Tensor) -> Tensor:
    y = Log.apply(x - 1)
    return y * 2


def custom_backward(x: Tensor) -> Tensor:
    y = Root.apply(x - 1)
    return y * 2


# Backward ---------------------------------------------------------------------------


def root_at_zero(x: Tensor) -> Tensor:
    y = x - 1
    return y.sqrt()


def norm_by_hand_at_zero(x: Tensor) -> Tensor:
    y = (x * 0).pow(2).sum(dim=-1)
    return y.sqrt()


def p_norm_at_zero(x: Tensor) -> Tensor:
    return (x * 0).norm(p=0.5, dim=-1)


def std_of_constant(x: Tensor) -> Tensor:
    return (x * 0).std(dim=-1)


def power_at_zero(x: Tensor) -> Tensor:
    y = x - 1
    return y**0.5


def acos_at_one(x: Tensor) -> Tensor:
    y = x / 12
    return torch.acos(y)


def asin_at_one(x: Tensor) -> Tensor:
    y = x / 12
    return torch.asin(y)


def atan2_at_origin(x: Tensor) -> Tensor:
    y = x * 0
    return torch.atan2(y, y)


def distance_by_hand(x: Tensor) -> Tensor:
    squares = (x[:, None] - x[None]).square().sum(dim=-1)
    return squares.sqrt()


def cumprod_of_zeros(x: Tensor) -> Tensor:
    y = x - 1
    return y.cumprod(dim=-1) + y.abs().pow(0.25)


def absolute_power(x: Tensor) -> Tensor:
    y = (x - 1).abs()
    return y.pow(0.3)


def infinite_curvature(x: Tensor) -> Tensor:
    y = x - x
    powers = y.abs().pow(1.5)
    (slope,) = torch.autograd.grad(powers.sum(), y, create_graph=True)
    return slope.square()


@torch.library.custom_op("planted::inverse", mutates_args=())
def inverse(x: Tensor) -> Tensor:
    return x.reciprocal()


inverse.register_autograd(lambda _, gradient: -gradient)


def operator_of_a_library(x: Tensor) -> Tensor:
    return inverse(x - x)


def double_root(x: Tensor) -> Tensor:
    y = (x - x.detach()).square()
    return y.sqrt()


def complex_power(x: Tensor) -> Tensor:
    z = torch.complex(x * 0, x * 0)
    return torch.view_as_real(z.sqrt())


def where_root(x: Tensor) -> Tensor:
    y = x - 1
    root = y.sqrt()
    return torch.where(y > 0, root, y)


def where_log(x: Tensor) -> Tensor:
    y = x - 3
    logged = torch.log(y)
    return torch.where(y > 0, logged, 0.0)


def where_division(x: Tensor) -> Tensor:
    y = x - 3
    ratio = 1 / y
    return torch.where(y != 0, ratio, 0.0)


def where_exp(x: Tensor) -> Tensor:
    y = x * 20
    grown = y.exp()
    return torch.where(y < 50, grown, y)


def masked_root(x: Tensor) -> Tensor:
    y = x - 5
    root = (y / 2).sqrt()
    return root.masked_fill(y <= 0, 0.0).sum(dim=-1)


def softplus_by_hand(x: Tensor) -> Tensor:
    y = (x * 20).exp()
    return 1 / (1 + y)


def gradient_penalty(x: Tensor) -> Tensor:
    y = (x * 2).sum()
    (slope,) = torch.autograd.grad(y * 0 + (x * 0).square().sum(), x, create_graph=True)
    squares = slope.square().sum(dim=-1)
    return squares.sqrt() + y


def recomputed(x: Tensor) -> Tensor:
    y = x - 1
    return y.sqrt()


def division_beside_hidden_log(x: Tensor) -> Tensor:
    logged = (x.detach() - 1).log()
    ratio = logged / (x[:, :1] - 5)
    return torch.where(x > 1, ratio, 0.0)


def overflow_beside_hidden_log(x: Tensor) -> Tensor:
    logged = torch.log(x.detach() - 1)
    grown = torch.exp(logged * 50)
    both = torch.cat([logged, grown])
    return both[1:] * x[:1]


def contrast_by_hand(x: Tensor) -> Tensor:
    others = 1 - torch.eye(3)
    grown = torch.exp(x @ x.T) * others
    return -(grown.diagonal() / grown.sum(dim=-1)).log()


def eps_below_float16(x: Tensor) -> Tensor:
    y = (x * 0).half()
    return y / (y.norm(dim=-1, keepdim=True) + 1e-8)


def clamped_division(x: Tensor) -> Tensor:
    ratio = 1 / (x - 1)
    return ratio.clamp(max=10)


def logged_under_vmap(x: Tensor) -> Tensor:
    return torch.vmap(lambda row: (row - 1).log())(x)


def written_nan(x: Tensor) -> Tensor:
    y = x.clone()
    y[1] = NAN
    return y


def masked_by_writing(x: Tensor) -> Tensor:
    scores = x.clone()
    scores[:2] = -INF
    return scores.softmax(dim=-1)


def divided_by_a_hook(x: Tensor) -> Tensor:
    y = x * 2
    y.register_hook(lambda gradient: gradient / (gradient * 0))
    return y


def hidden_in_a_checkpoint(x: Tensor) -> Tensor:
    y: Tensor = checkpoint(where_root, x, use_reentrant=False)
    return y


def root_of_a_slope(x: Tensor) -> Tensor:
    y = (x - 1).pow(1.5).sum()
    (slope,) = torch.autograd.grad(y, x, create_graph=True)
    return slope


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.input = identity(4)
        self.block = Block(recomputed)
        self.reentrant = reentrant

    def forward(self, batch: Tensor) -> Tensor:
        x = self.input(batch)
        y: Tensor = checkpoint(self.block, x, use_reentrant=self.reentrant)
        return y.mean()


# Modules ----------------------------------------------------------------------------


class Deep(nn.Module):
    """A stack of blocks of which the third breaks."""

    def __init__(self) -> None:
        super().__init__()
        self.input = identity(4)
        self.layers = nn.Sequential(
            Block(torch.relu), Block(torch.tanh), nn.Sequential(Block(log_of_zero))
        )

    def forward(self, batch: Tensor) -> Tensor:
        return self.layers(self.input(batch)).mean()


class InRoot(nn.Module):
    """Breaks in its own code."""

    def __init__(self) -> None:
        super().__init__()
        self.input = identity(4)

    def forward(self, batch: dict[str, Any]) -> Tensor:
        predicted = self.input(batch["x"])
        return torch.log(predicted - batch["y"][0]).mean()


class Masked(nn.Module):
    """Attention of torch's with a mask, True where nothing is to be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, mask = batch
        out, _ = self.attention(x, x, x, key_padding_mask=mask)
        return out.mean()


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input = identity(4)

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, mask = batch
        q = self.input(x)
        y = functional.scaled_dot_product_attention(q, q, q, attn_mask=mask)
        return y.mean()


class MaskedByBuffer(nn.Module):
    """-Inf in a buffer is a mask, and legal until it leaves nothing."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.input = identity(4)
        mask = torch.zeros(3, 4)
        mask[1] = -INF
        self.register_buffer("mask", mask)

    def forward(self, batch: Tensor) -> Tensor:
        x = self.input(batch)
        return torch.softmax(x + self.mask, dim=-1).mean()


class Embedded(nn.Module):
    """One row of the embedding is broken."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(6, 4)
        self.words.weight.data[3] = NAN
        self.head = nn.Linear(4, 1)

    def forward(self, batch: Tensor) -> Tensor:
        vectors = self.words(batch)
        return self.head(vectors).mean()


class BrokenWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        last = nn.Linear(4, 1)
        last.weight.data[0, 1] = INF
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), last)

    def forward(self, batch: Tensor) -> Tensor:
        return self.layers(batch).mean()


class Frozen(nn.Module):
    """The broken weight has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
        self.first.bias.data[2] = NAN
        self.first.requires_grad_(False)

    def forward(self, batch: Tensor) -> Tensor:
        return self.last(self.first(batch)).mean()


class BrokenBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.norm.running_var = torch.tensor([1.0, 1.0, NAN, 1.0])
        self.eval()

    def forward(self, batch: Tensor) -> Tensor:
        return self.norm(batch).mean()


class BrokenConstant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input = identity(4)
        self.classes = torch.tensor([1.0, NAN, 1.0, 1.0])

    def forward(self, batch: Tensor) -> Tensor:
        return (self.input(batch) * self.classes).mean()


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input = identity(4)

    def forward(self, batch: dict[str, Any]) -> Tensor:
        x, target = batch["views"][0]["x"], batch["target"]
        return functional.mse_loss(self.input(x), target)


class Recurrent(nn.Module):
    """A recurrent layer whose weights grew."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(4, 4, nonlinearity="relu", batch_first=True)
        for weight in self.rnn.parameters():
            nn.init.constant_(weight, 1e3)

    def forward(self, batch: Tensor) -> Tensor:
        outputs, _ = self.rnn(batch)
        return outputs.mean()


class Wide(nn.Module):
    """A layer whose sums leave float16."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        for weight in self.parameters():
            nn.init.constant_(weight, 100.0)

    def forward(self, batch: Tensor) -> Tensor:
        return self.layers(batch).float().mean()


class Multiplied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input = identity(4)

    def forward(self, batch: Tensor) -> Tensor:
        q = self.input(batch * 100)
        scores = q @ q.T
        return scores.float().mean()


class Scaled(nn.Module):
    """A layer in float16 whose gradients fit only without the loss scale."""

    def __init__(self) -> None:
        super().__init__()
        self.input = identity(4)

    def forward(self, batch: Tensor) -> Tensor:
        x = self.input(batch)
        return x.float().square().sum()


def batch_of(*, x: float = 1.0, target: float = 3.0) -> dict[str, Any]:
    """A nested batch, with one element of inputs and targets as given."""
    inputs, targets = ROWS.clone(), ROWS.clone()
    inputs[2, 0], targets[1, 2] = x, target
    return {"views": [{"x": inputs}], "target": targets}


def sequences() -> Tensor:
    return torch.ones(2, 40, 4)


def forward(function: Callable[[Tensor], Tensor], name: str, line: str) -> Fault:
    """A function that breaks in the forward pass."""
    return Fault(function.__name__, lambda: Net(function), name, "forward", line)


def backward(
    function: Callable[[Tensor], Tensor],
    name: str,
    line: str,
    hidden_by: str | None = None,
) -> Fault:
    """A function that breaks in the backward pass."""
    return Fault(
        function.__name__,
        lambda: Net(function),
        name,
        "backward",
        line,
        hidden_by=hidden_by,
    )


FAULTS = [
    forward(contrast_by_hand, "exp", "grown = torch.exp(x @ x.T) * others"),
    forward(
        eps_below_float16, "div", "return y / (y.norm(dim=-1, keepdim=True) + 1e-8)"
    ),
    backward(clamped_division, "div", "ratio = 1 / (x - 1)", hidden_by="clamp"),
    Fault(
        "a buffer masks a row whole",
        MaskedByBuffer,
        "softmax",
        "forward",
        "return torch.softmax(x + self.mask, dim=-1).mean()",
        path="",
    ),
    forward(log_of_zero, "log", "return y.log()"),
    forward(zero_by_zero, "div", "return y / y"),
    forward(one_by_zero, "div", "return 1 / y"),
    forward(divided_row_by_row, "div", "out[row] = x[row] / (x[row, 0] - 1)"),
    forward(divided_in_place, "div", "y /= x[:, :1] - 1"),
    forward(slice_logged_in_place, "log", "y[0].log_()"),
    forward(written_by_out, "log", "torch.log(x - 1, out=weight)"),
    forward(exp_overflow, "exp", "return torch.exp(x * 100).sum(dim=1)"),
    forward(softmax_by_hand, "exp", "e = (x * 50).exp()"),
    forward(fully_masked_softmax, "softmax", "return scores.softmax(dim=-1)"),
    forward(
        fully_masked_by_adding, "softmax", "return torch.softmax(x + mask, dim=-1)"
    ),
    forward(all_of_logsumexp, "logsumexp", "return scores.logsumexp(dim=-1)"),
    forward(mask_times_inf, "mul", "return x + mask * -INF"),
    forward(variance_of_one_row, "var", "return x[:1].var(dim=0)"),
    forward(power_of_zero, "pow", "return (x - 1).pow(-1)"),
    forward(root_of_negative, "sqrt", "return (x - 2).sqrt()"),
    forward(acos_beyond_one, "acos", "return x.acos()"),
    forward(
        normalized_by_hand,
        "div",
        "return centered / centered.square().sum(dim=-1, keepdim=True).sqrt()",
    ),
    forward(
        layer_norm_by_hand,
        "div",
        "return centered / centered.var(dim=-1, keepdim=True)",
    ),
    forward(
        log_softmax_by_hand,
        "exp",
        "return x - torch.log((x * 30).exp().sum(dim=-1, keepdim=True))",
    ),
    forward(log_of_underflow, "log", "return -(p * p.log()).sum(dim=-1)"),
    forward(entropy_of_masked, "mul", "return -(logged.exp() * logged).sum(dim=-1)"),
    forward(nothing_to_average, "mean", "return x[x > 100].mean()"),
    forward(
        all_targets_ignored,
        "cross_entropy",
        "return functional.cross_entropy(x, targets)",
    ),
    forward(entropy_by_hand, "log", "return -(torch.log(1 - p))"),
    forward(average_by_count, "div", "return x[x > 100].sum() / count"),
    forward(exponent_of_integers, "div", "return x / steps[:, None]"),
    forward(loop_that_grows, "mul", "x = x * x"),
    forward(half_sum, "sum", "return y.sum()"),
    forward(cast_to_half, "half", "return y.half()"),
    forward(complex_log, "log", "return torch.log(z).real"),
    forward(sparse_log, "log", "return values.log()"),
    forward(custom_forward, "Log", "y = Log.apply(x - 1)"),
    forward(division_beside_hidden_log, "div", "ratio = logged / (x[:, :1] - 5)"),
    forward(overflow_beside_hidden_log, "exp", "grown = torch.exp(logged * 50)"),
    forward(
        logged_under_vmap, "log", "return torch.vmap(lambda row: (row - 1).log())(x)"
    ),
    forward(written_nan, "setitem", "y[1] = NAN"),
    forward(masked_by_writing, "softmax", "return scores.softmax(dim=-1)"),
    backward(custom_backward, "Root", "y = Root.apply(x - 1)"),
    backward(root_at_zero, "sqrt", "return y.sqrt()"),
    backward(norm_by_hand_at_zero, "sqrt", "return y.sqrt()"),
    backward(power_at_zero, "pow", "return y**0.5"),
    backward(acos_at_one, "acos", "return torch.acos(y)"),
    backward(asin_at_one, "asin", "return torch.asin(y)"),
    backward(distance_by_hand, "sqrt", "return squares.sqrt()"),
    backward(cumprod_of_zeros, "pow", "return y.cumprod(dim=-1) + y.abs().pow(0.25)"),
    backward(absolute_power, "pow", "return y.pow(0.3)"),
    backward(infinite_curvature, "pow", "powers = y.abs().pow(1.5)"),
    forward(operator_of_a_library, "inverse", "return inverse(x - x)"),
    backward(double_root, "sqrt", "return y.sqrt()"),
    backward(complex_power, "sqrt", "return torch.view_as_real(z.sqrt())"),
    backward(where_root, "sqrt", "root = y.sqrt()", hidden_by="where"),
    backward(where_log, "log", "logged = torch.log(y)", hidden_by="where"),
    backward(where_division, "div", "ratio = 1 / y", hidden_by="where"),
    backward(where_exp, "exp", "grown = y.exp()", hidden_by="where"),
    backward(masked_root, "sqrt", "root = (y / 2).sqrt()", hidden_by="masked_fill"),
    backward(softplus_by_hand, "exp", "y = (x * 20).exp()", hidden_by="div"),
    backward(hidden_in_a_checkpoint, "sqrt", "root = y.sqrt()", hidden_by="where"),
    backward(root_of_a_slope, "pow", "y = (x - 1).pow(1.5).sum()"),
    backward(gradient_penalty, "sqrt", "return squares.sqrt() + y"),
    Fault(
        "hook that divides",
        lambda: Net(divided_by_a_hook),
        "div",
        "backward",
        "y.register_hook(lambda gradient: gradient / (gradient * 0))",
        path="",
    ),
    Fault(
        "checkpointed",
        lambda: Checkpointed(reentrant=False),
        "sqrt",
        "backward",
        "return y.sqrt()",
    ),
    Fault(
        "checkpointed, reentrant",
        lambda: Checkpointed(reentrant=True),
        "sqrt",
        "backward",
        "return y.sqrt()",
    ),
    Fault("deep inside", Deep, "log", "forward", "return y.log()", path="layers.2.0"),
    Fault(
        "in the root",
        InRoot,
        "log",
        "forward",
        'return torch.log(predicted - batch["y"][0]).mean()',
        path="",
        batches={0: {"x": ROWS, "y": [ROWS]}},
    ),
    Fault(
        "padding masks a row whole",
        Masked,
        "softmax",
        "forward",
        "out, _ = self.attention(x, x, x, key_padding_mask=mask)",
        path="attention",
        batches={0: (ROWS.reshape(1, 3, 4), torch.ones(1, 3, dtype=torch.bool))},
    ),
    Fault(
        "embedding row",
        Embedded,
        "words.weight",
        None,
        "vectors = self.words(batch)",
        path="words",
        batches={0: torch.tensor([1, 3, 5])},
        kind="weight",
        rows=(3,),
    ),
    Fault(
        "Inf in a weight",
        BrokenWeight,
        "layers.2.weight",
        None,
        "return self.layers(batch).mean()",
        path="layers.2",
        kind="weight",
        rows=(0,),
    ),
    Fault(
        "NaN in a frozen bias",
        Frozen,
        "first.bias",
        None,
        "return self.last(self.first(batch)).mean()",
        path="first",
        kind="weight",
        rows=(2,),
    ),
    Fault(
        "NaN in a buffer",
        BrokenBuffer,
        "norm.running_var",
        None,
        "return self.norm(batch).mean()",
        path="norm",
        kind="buffer",
        rows=(2,),
    ),
    Fault(
        "NaN in an attribute",
        BrokenConstant,
        "classes",
        None,
        "return (self.input(batch) * self.classes).mean()",
        path="",
        kind="constant",
        rows=(1,),
    ),
    Fault(
        "NaN in the batch",
        Nested,
        "batch['views'][0]['x']",
        None,
        "return functional.mse_loss(self.input(x), target)",
        path="",
        batches={0: batch_of(x=NAN)},
        kind="batch",
        rows=(2,),
    ),
    Fault(
        "Inf in the targets",
        Nested,
        "batch['target']",
        None,
        "return functional.mse_loss(self.input(x), target)",
        path="",
        batches={0: batch_of(target=INF)},
        kind="batch",
        rows=(1,),
    ),
    Fault(
        "second micro-batch",
        lambda: Net(root_at_zero),
        "sqrt",
        "backward",
        "return y.sqrt()",
        batches={0: ROWS + 1, 1: ROWS, 2: ROWS + 2},
        micro_batch=1,
    ),
    Fault(
        "broken second micro-batch",
        Nested,
        "batch['target']",
        None,
        "return functional.mse_loss(self.input(x), target)",
        path="",
        batches={0: batch_of(), 1: batch_of(target=NAN)},
        kind="batch",
        rows=(1,),
        micro_batch=1,
    ),
    Fault(
        "recurrent weights grew",
        Recurrent,
        "rnn_relu",
        "forward",
        "outputs, _ = self.rnn(batch)",
        path="rnn",
        batches={0: sequences()},
    ),
    Fault(
        "float16 linear",
        Wide,
        "linear",
        "forward",
        "return self.layers(batch).float().mean()",
        path="layers.1",
        autocast=torch.float16,
    ),
    Fault(
        "float16 matmul",
        Multiplied,
        "matmul",
        "forward",
        "scores = q @ q.T",
        path="",
        autocast=torch.float16,
    ),
    Fault(
        "loss scale",
        Scaled,
        "float",
        "backward",
        "return x.float().square().sum()",
        path="",
        kind="scale",
        autocast=torch.float16,
        loss_scale=65536.0,
    ),
]
