"""The Gram matrix against the brute-force Jacobian, layer by layer, and the promises of its computation."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import madzoo
from madzoo import layers
from madzoo.errors import ConfigError, DataError, ShapeError
from madzoo.geometry import GramMatrix, gram_matrix
from madzoo.geometry.assembly import Assembly
from madzoo.geometry.cuts import Graph
from madzoo.geometry.ghost import add_outer, mirror
from madzoo.geometry.jacobian import jacobian_rows
from madzoo.geometry.network import prepare_network
from madzoo.geometry.plan import make_plan
from madzoo.geometry.uses import windows
from tests.geometry.cases import CASES, draw, mlp

WIDTH, LENGTH = 6, 7  # LENGTH is odd and no multiple of the number of samples


class Pooled(nn.Module):
    """A sequence layer under test, the mean over its positions, and a linear head."""

    def __init__(self, layer: nn.Module, width: int = WIDTH) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        y = y[0] if isinstance(y, tuple) else y
        return self.head(y.flatten(1, -2).mean(1))


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x)[0]


class Functional(nn.Module):
    """Parameters used without modules: positions, a class token, matmul, einsum, bmm, complex numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.positions, self.token = nn.Parameter(torch.randn(LENGTH, WIDTH)), nn.Parameter(torch.randn(1, 1, WIDTH))
        self.phase = nn.Parameter(torch.randn(WIDTH, dtype=torch.complex128))
        self.turn = nn.Parameter(torch.randn(WIDTH, WIDTH, dtype=torch.complex128))
        self.mix, self.left = nn.Parameter(torch.randn(5, WIDTH)), nn.Parameter(torch.randn(3, LENGTH + 1))
        self.each = nn.Parameter(torch.randn(WIDTH, 2, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), 2 / (3 + (x + self.positions).square())], dim=1)
        x = (torch.einsum("bld,ed->ble", x, self.mix).sum(-1, keepdim=True) - 1j * (x * self.phase) @ self.turn).abs()
        x = torch.matmul(self.left, x)
        y = torch.bmm(self.each, F.pad(x, (0, 0, 0, 1)).permute(2, 1, 0))
        return torch.stack([y.sum((0, 1)).tanh(), y[:, 1].sum(0)], dim=1)


class ReadElsewhere(nn.Module):
    """A linear layer that is called, and whose weight is read by a function no tracer sees."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + Doubled.apply(x, self.inner.weight)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return 2 * x @ weight.T

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        return 2 * grad @ weight, 2 * grad.flatten(0, -2).T @ x.flatten(0, -2)


class Written(nn.Module):
    """Writes a parameter into a tensor of data, and reads another one without asking for its derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.fixed, self.last = (nn.Parameter(torch.randn(WIDTH)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = x * self.fixed.detach()
        with torch.no_grad():
            y = y * self.fixed
        y = y.clone()
        y[:, 0] = self.first
        return y.sin().mul_(self.last)


class Coupled(nn.Module):
    """Normalises over the batch by hand: only a sample on its own has an output of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return y + y.mean(0, keepdim=True).square()


class Leading(nn.Module):
    """Works with positions first, as torch's transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gain, self.second = nn.Linear(WIDTH, 4), nn.Parameter(torch.randn(4)), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x.transpose(0, 1))) * self.gain).sum(0)


def tied() -> nn.Module:
    first, last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
    last.weight = first.weight
    return nn.Sequential(first, nn.Tanh(), first, nn.Tanh(), last)


def images() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True),
        nn.Conv2d(6, 6, 3, stride=2, groups=6), nn.GroupNorm(2, 6), nn.GELU(),
        nn.Conv2d(6, 4, (2, 3), padding="same", dilation=2, groups=2), nn.Conv2d(4, 12, 1), nn.Flatten(),
        nn.Linear(108, 3),
    )  # fmt: skip


def signals() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(LENGTH, 5, 3, padding=1, padding_mode="circular"), nn.BatchNorm1d(5), nn.SiLU(inplace=True),
        nn.ConvTranspose1d(5, 4, 3), nn.InstanceNorm1d(4, affine=True), nn.Flatten(), nn.Linear(32, 2),
    )  # fmt: skip


def weight_norm() -> nn.Module:
    norm, orthogonal = nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.orthogonal
    return nn.Sequential(norm(nn.Linear(WIDTH, 5)), nn.Tanh(), orthogonal(nn.Linear(5, 3)))


SEQUENCES = {
    "linear": lambda: nn.Linear(WIDTH, WIDTH),
    "layer_norm": lambda: nn.LayerNorm(WIDTH),
    "torch_rms_norm": lambda: nn.RMSNorm(WIDTH),
    "rms_norm": lambda: layers.RMSNorm(WIDTH),
    "gated_rms_norm": lambda: layers.GatedRMSNorm(WIDTH),
    "functional": Functional,
    "read_elsewhere": ReadElsewhere,
    "written": Written,
    "positions_first": Leading,
    "tied": tied,
    "weight_norm": weight_norm,
    "mha": SelfAttention,
    "gru": lambda: nn.GRU(WIDTH, WIDTH, batch_first=True),
    "transformer": lambda: nn.TransformerEncoderLayer(WIDTH, 2, 9, batch_first=True),
    "mamba": lambda: layers.Mamba(WIDTH, d_state=3),
    "mamba2": lambda: layers.Mamba2(WIDTH, headdim=4, d_state=3),
    "mamba3": lambda: layers.Mamba3(WIDTH, headdim=4, d_state=8),
    "mamba_plus": lambda: layers.MambaPlus(WIDTH),
    "hydra": lambda: layers.Hydra(WIDTH, headdim=4, d_state=3),
    "s4d": lambda: layers.S4D(WIDTH, d_state=4),
    "s4": lambda: layers.S4Block(WIDTH, d_state=4),
    "s5": lambda: layers.S5(WIDTH, d_state=8, blocks=2),
    "linoss": lambda: layers.LinOSS(WIDTH),
    "delta_net": lambda: layers.DeltaNet(WIDTH, num_heads=2),
    "long_conv": lambda: layers.LongConv(WIDTH, kernel_size=3),
    "symmetric": lambda: layers.SymmetricMixer(WIDTH),
}
# What is differentiated row by row, because no rule serves: everything else must not be.
STREAMED = {"read_elsewhere": 1, "written": 1, "positions_first": 5, "mha": 4, "gru": 4, "transformer": 4}
BARE = {"functional", "positions_first", "weight_norm"}  # without pooling and head


def expected_gram(model: nn.Module, x: Tensor) -> Tensor:
    jacobian = torch.stack(list(jacobian_rows(model, x)))
    return jacobian @ jacobian.T


def assert_gram(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * float(expected.abs().max()))


@pytest.mark.parametrize("name", SEQUENCES)
def test_gram_of_a_sequence_layer_is_the_dense_one(name: str) -> None:
    torch.manual_seed(0)
    model = SEQUENCES[name]() if name in BARE else Pooled(SEQUENCES[name]())
    model, x = model.double().eval(), torch.randn(3, LENGTH, WIDTH, dtype=torch.float64)
    found = gram_matrix(model, x)
    assert_gram(found.total, expected_gram(model, x))
    assert len(found.streamed) == STREAMED.get(name, 0), found.streamed


@pytest.mark.parametrize("name", ["ss2d", "plain_mamba"])
def test_gram_of_an_image_layer_is_the_dense_one(name: str) -> None:
    torch.manual_seed(0)
    build = {"ss2d": layers.SS2D, "plain_mamba": layers.PlainMamba2D}[name]
    model, x = Pooled(build(4)), torch.randn(3, 3, 5, 4, dtype=torch.float64)
    model = Pooled(build(4), 4).double()
    assert_gram(gram_matrix(model, x).total, expected_gram(model, x))


@pytest.mark.parametrize(("build", "shape"), [(images, (2, 7, 7)), (signals, (LENGTH, WIDTH))])
def test_gram_of_convolutions_and_norms_is_the_dense_one(build, shape) -> None:
    torch.manual_seed(0)
    model, x = build().double(), torch.randn(4, *shape, dtype=torch.float64)
    model(x)  # running statistics
    model.eval()
    found = gram_matrix(model, x)
    assert_gram(found.total, expected_gram(model, x))
    assert len(found.streamed) == (0 if build is images else 4)  # transposed convolution, instance norm


@pytest.mark.parametrize(
    ("name", "changes", "shape"),
    [
        ("vim_micro_patch4_32", {"embed_dim": 8, "depth": 2, "img_size": 8, "num_classes": 3}, (3, 8, 8)),
        ("weft_micro_patch4_32", {"embed_dim": 16, "img_size": 16, "num_classes": 3}, (3, 16, 16)),
        ("patch_s4d_tiny_512_96", {"context_length": 64, "prediction_length": 3}, (64, 1)),
    ],
)
def test_gram_of_a_registered_model_is_the_dense_one(name, changes, shape) -> None:
    torch.manual_seed(0)
    model, x = madzoo.create_model(name, **changes).eval(), torch.randn(2, *shape, dtype=torch.float64)
    found = gram_matrix(model, x)
    assert_gram(found.total, expected_gram(model, x))
    assert not found.streamed


def test_tied_and_batch_coupled_and_single_samples() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, WIDTH, dtype=torch.float64)
    for model in (tied().double(), Coupled().double(), nn.Linear(WIDTH, 2).double()):
        for sample in (x, x[:1]):
            assert_gram(gram_matrix(model, sample).total, expected_gram(model, sample))
    assert gram_matrix(tied(), x).num_params == WIDTH * WIDTH + 2 * WIDTH


def test_complex_parameters_count_twice() -> None:
    torch.manual_seed(0)
    model = Functional().double()
    assert gram_matrix(model, torch.randn(2, LENGTH, WIDTH)).num_params == sum(
        p.numel() * (2 if p.is_complex() else 1) for p in model.parameters()
    )


@pytest.mark.parametrize("memory_mb", [1, 512])
def test_portions_and_cuts_change_nothing(memory_mb: float) -> None:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.LayerNorm(16), layers.Mamba(16, d_state=4), nn.Linear(16, 16)) for _ in range(3)]
    model, x = Pooled(nn.Sequential(*blocks), 16).double(), torch.randn(9, LENGTH, 16, dtype=torch.float64)
    network = prepare_network(model, x, output="logits", parameters=None, device=None)
    plan = make_plan(network)
    memory, names = memory_mb * 2**20, list(network.parameters)
    picked = torch.arange(2).repeat(9, 1)
    assembly = Assembly(
        network, plan, picked=picked, memory=int(memory), memberships=dict.fromkeys(names, ()), progress=None
    )
    (gram,) = assembly.run().values()
    assert_gram(mirror(gram), expected_gram(model, x))
    assert bool(assembly.cuts) == (memory_mb == 1)
    if memory_mb == 1:
        assert len(assembly.cuts) > 1  # several batches, each resumed from its own cut


class Wavering(nn.Module):
    """Makes one more call every second time, which changes nothing."""

    def __init__(self, passes: list[int], *, wavers: bool) -> None:
        super().__init__()
        self.passes, self.wavers = passes, wavers

    def __deepcopy__(self, memo: dict) -> "Wavering":
        return Wavering(self.passes, wavers=self.wavers)  # its copies count together

    def forward(self, x: Tensor) -> Tensor:
        self.passes.append(len(x))
        return x * 1.0 if self.wavers and len(self.passes) % 2 else x


@pytest.mark.parametrize("wavers", [False, True])
def test_a_forward_pass_ends_at_the_cut_where_it_takes_the_same_way(wavers: bool) -> None:
    torch.manual_seed(0)
    first: list[int] = []
    last: list[int] = []
    blocks = [nn.Sequential(nn.LayerNorm(16), layers.Mamba(16, d_state=4), nn.Linear(16, 16)) for _ in range(3)]
    body = nn.Sequential(Wavering(first, wavers=wavers), *blocks, Wavering(last, wavers=False))
    model, x = Pooled(body, 16).double(), torch.randn(9, LENGTH, 16, dtype=torch.float64)
    found = gram_matrix(model, x, memory_mb=1)
    assert_gram(found.total, expected_gram(model, x))
    assert len(last) < len(first)


def test_a_cut_is_what_everything_below_passes() -> None:
    a, b = torch.ones(2, 3, requires_grad=True), torch.ones(3, requires_grad=True)
    low = a * b
    stream = low + low.tanh()
    top = (stream.sin() + stream).sum()
    assert top.grad_fn and stream.grad_fn and low.grad_fn
    graph = Graph(top.grad_fn)
    edge = torch.autograd.graph.get_gradient_edge
    assert graph.nodes[graph.lowest_cut([edge(low)], lambda shape: shape == (2, 3))] is stream.grad_fn
    assert graph.lowest_cut([edge(low)], lambda shape: False) == 0
    assert graph.nodes[graph.lowest_cut([edge(a), edge(b)], lambda shape: True)] is low.grad_fn


@pytest.mark.parametrize(("places", "limit"), [(1, 10**6), (1, 40), (2, 10**6), (5, 10**6), (5, 60)])
def test_outer_products_either_way(places: int, limit: int) -> None:
    torch.manual_seed(0)
    inputs, grads = torch.randn(4, places, 30).double(), torch.randn(4, 2, places, 3).double()
    rows = torch.einsum("nti,nsto->nsoi", inputs, grads).reshape(8, -1)
    gram = torch.zeros(8, 8, dtype=torch.float64)
    add_outer(gram, inputs, grads, limit=limit)
    torch.testing.assert_close(mirror(gram), rows @ rows.T)


def test_windows_are_what_a_convolution_reads() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 9, 8), torch.randn(5, 3, 3, 2)
    seen = windows(x, (3, 2), (2, 1), (1, 3))
    torch.testing.assert_close(
        torch.einsum("bchwkl,ockl->bohw", seen, weight), F.conv2d(x, weight, stride=(2, 1), dilation=(1, 3))
    )


def test_groups_add_up_and_may_overlap() -> None:
    torch.manual_seed(0)
    model, x = Pooled(layers.Mamba(WIDTH)).double(), torch.randn(3, LENGTH, WIDTH, dtype=torch.float64)
    every = gram_matrix(model, x, groups="suffix")
    assert {"A_log", "D", "in_proj.weight", "head.bias"} <= set(every.groups)
    assert_gram(sum(every.groups.values(), start=torch.zeros_like(every.total)), every.total)
    assert sum(every.group_params.values()) == every.num_params
    found = gram_matrix(model, x, groups={"A": "*A_log", "scan": ["*A_log", "*layer.D"], "all": "*"})
    alone = gram_matrix(model, x, parameters=["*A_log", "*layer.D"])
    assert_gram(found.groups["scan"], alone.total)
    assert_gram(found.groups["all"], found.total)
    assert found.group_params["scan"] == alone.num_params == 12 * 16 + 12


def test_some_rows_are_a_principal_submatrix() -> None:
    model, x = draw(CASES["tanh_4-5-3"], 0)
    x = x[:10]
    whole = gram_matrix(model, x).total
    for rows in (4, 17, 30):
        found = gram_matrix(model, x, rows=rows, seed=3)
        assert len(found.rows) == len(set(found.rows.tolist())) == rows
        assert_gram(found.total, whole[found.rows][:, found.rows])
        assert max(torch.bincount(found.rows // 3)) <= math.ceil(rows / 10)
    assert gram_matrix(model, torch.randn(500, 4), rows=2, seed=0).total.shape == (2, 2)
    again, other = (gram_matrix(model, x, rows=4, seed=seed).rows for seed in (3, 4))
    assert again.tolist() != other.tolist()


@pytest.mark.parametrize("output", ["log_probs", lambda y: y[:, :2] ** 2, lambda y: y.sum(1)])
def test_any_output_of_a_sample_is_a_row(output) -> None:
    model, x = draw(CASES["gelu_4-5-3"], 0)
    x = x[:4]
    found = gram_matrix(model, x, output=output)
    apply = output if callable(output) else lambda y: y.log_softmax(-1)
    grads = [
        torch.cat([g.flatten() for g in torch.autograd.grad(element, list(model.parameters()), retain_graph=True)])
        for element in apply(model(x)).flatten()
    ]
    assert_gram(found.total, torch.stack(grads) @ torch.stack(grads).T)


def test_the_callers_model_and_mode_are_untouched() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.BatchNorm1d(4).eval(), nn.Linear(4, 2))
    model[0].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    with torch.inference_mode():
        found = gram_matrix(model, torch.randn(6, 3))
    assert model.training and not model[2].training and not model[0].weight.requires_grad
    assert found.num_params == 34 and found.total.dtype == torch.float64
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    gram_matrix(mlp(3, 4, 2), torch.randn(5, 3), progress=lambda *counts: told.append(counts))
    assert told[-1] == (10, 10)


def test_progress_on_stderr(capsys) -> None:
    gram_matrix(mlp(3, 4, 2), torch.randn(5, 3), progress=True)
    assert "10 of 10 backward passes\n" in capsys.readouterr().err


def test_a_constant_has_a_gram_of_zeros() -> None:
    found = gram_matrix(nn.Identity(), torch.randn(2, 3))
    assert isinstance(found, GramMatrix) and found.num_params == 0 and not found.total.any()


class Bare(nn.Module):
    def __init__(self, answer) -> None:
        super().__init__()
        self.weight, self.answer = nn.Parameter(torch.ones(2)), answer

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(x * self.weight)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"output": "logit"}, "did you mean logits"),
        ({"parameters": "*A_log"}, "no parameter matches"),
        ({"groups": {"A": "*A_log"}}, "no parameter matches"),
        ({"groups": "prefix"}, "'suffix'"),
        ({"rows": 3}, "seed"),
        ({"rows": 11, "seed": 0}, "1 ... 10"),
        ({"rows": 0, "seed": 0}, "1 ... 10"),
        ({"memory_mb": 0.5}, "memory_mb"),
        ({"memory_mb": float("nan")}, "memory_mb"),
    ],
)
def test_a_wrong_option_is_refused(options, words) -> None:
    with pytest.raises(ConfigError) as refused:
        gram_matrix(mlp(3, 4, 2), torch.randn(5, 3), **options)
    assert words in str(refused.value)


def test_batch_statistics_are_refused() -> None:
    model, x = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), torch.randn(5, 3)
    with pytest.raises(ConfigError, match=r"BatchNorm '1' is in train mode(.|\n)*model.eval\(\)"):
        gram_matrix(model, x)
    model[1] = nn.BatchNorm1d(4, track_running_stats=False).eval()
    with pytest.raises(ConfigError, match="no running statistics"):
        gram_matrix(model, x)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda y: (y, y), ShapeError),
        (lambda y: y.float(), ShapeError),
        (lambda y: y.sum(), ShapeError),
        (lambda y: y / 0, DataError),
    ],
)
def test_an_output_that_gives_no_rows_is_refused(answer, error) -> None:
    with pytest.raises(error):
        gram_matrix(Bare(answer), torch.randn(5, 2))


@pytest.mark.parametrize("inputs", [torch.tensor(1.0), torch.empty(0, 3), [1.0]])
def test_inputs_that_are_no_samples_are_refused(inputs) -> None:
    with pytest.raises(ShapeError, match="inputs"):
        gram_matrix(mlp(3, 4, 2), inputs)
