"""At zero residual the Hessian is J^T J: its rank is the local dimension, and the valley has the other directions."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from madzoo.geometry import curvature, hessian_vector_product, local_dimension
from madzoo.geometry.jacobian import jacobian_rows
from tests.geometry.case import Case, draw, mlp
from tests.geometry.cases_ssm import STATE_SPACES


class TinyViT(nn.Module):
    """Patches of a picture, one attention block, the mean of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 2, stride=2)
        self.norm, self.attention = nn.LayerNorm(4), nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2).mT
        h = self.norm(tokens)
        return self.head((tokens + self.attention(h, h, h, need_weights=False)[0]).mean(1))


# name -> module, sample: state-space layers of known local dimension, where the smallest direction still shows.
# Few samples leave a valley that the data cut out; many leave the symmetries.
CASES: dict[str, Case] = {
    "mlp, few samples": Case(lambda: mlp(4, 6, 3, activation=nn.GELU), (5, 4), 15, 51, 15),
    "relu, many samples": Case(lambda: mlp(3, 5, 2), (80, 3), 160, 32, 27),
    "s4d": STATE_SPACES["s4d_2_channels_3_pairs"],
    "mamba": STATE_SPACES["mamba1_d3_E4_N2_R1"],
    "vit": Case(TinyViT, (80, 1, 4, 4), 160, 118, 0),
}


def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * (outputs - targets).square().sum() / len(outputs)


@pytest.mark.parametrize("name", CASES)
def test_rank_of_the_hessian_is_the_local_dimension(name: str) -> None:
    model, x = draw(CASES[name], 1)
    with torch.no_grad():
        answers = model(x)
    H = hessian_vector_product(model, (x, answers), half_square)
    columns = torch.stack([H(unit) for unit in torch.eye(H.num_params, dtype=torch.float64)])
    J = torch.cat([row.reshape(-1, H.num_params) for row in jacobian_rows(model, x)]) / len(x) ** 0.5
    assert H.loss < 1e-28 and (columns - J.T @ J).abs().max() < 1e-12 * J.square().sum()
    found = local_dimension(model, x)
    eigenvalues, vectors = (part.flip(-1) for part in torch.linalg.eigh(columns))
    sigma = torch.linalg.svdvals(J)
    # H squares the singular values: what is below 1e-7 of the largest in J would drown in H's round-off.
    ranks = [int((sigma > 1e-7 * sigma[0]).sum()), int((eigenvalues > 1e-14 * eigenvalues[0]).sum())]
    assert ranks == [found.rank, found.rank] and 0 < found.rank < H.num_params  # a valley, and not the whole space
    assert found.rank == (CASES[name].rank or found.rank)
    assert eigenvalues[found.rank - 1] > 100 * eigenvalues[found.rank :].abs().max()
    assert eigenvalues[0].item() == pytest.approx(sigma[0].item() ** 2, rel=1e-9)
    assert (J @ vectors[:, found.rank :]).norm(dim=0).max() < 1e-6 * sigma[0]  # the flat directions are those of J


def test_lanczos_finds_the_largest_squared_singular_value() -> None:
    model, x = draw(CASES["mamba"], 1)
    found, measured = (
        curvature(model, (x, model(x).detach()), half_square, probes=1, microbatch=None),
        local_dimension(model, x),
    )
    assert found.converged and measured.sigma_max is not None
    assert found.lambda_max == pytest.approx(measured.sigma_max**2 / len(x), rel=1e-9)


def test_away_from_the_minimum_the_two_differ() -> None:
    """What the identity needs: with other targets the residuals' own curvature comes in."""
    model, x = draw(CASES["mlp, few samples"], 1)
    H = hessian_vector_product(model, (x, model(x).detach() + 1), half_square)
    columns = torch.stack([H(unit) for unit in torch.eye(H.num_params, dtype=torch.float64)])
    J = torch.cat([row.reshape(-1, H.num_params) for row in jacobian_rows(model, x)]) / len(x) ** 0.5
    assert (columns - J.T @ J).norm() > 0.05 * columns.norm()
    assert F.mse_loss(model(x), model(x) + 1).item() == pytest.approx(2 * H.loss / 3)
