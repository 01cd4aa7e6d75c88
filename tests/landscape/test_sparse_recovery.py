"""Sparse recovery: problems as drawn, known failures, the support exploration against NumPy and its invariance."""

import numpy as np
import pytest
import torch

from madzoo.errors import ConfigError
from madzoo.landscape import RECOVERIES, SparseProblems, draw_sparse_problems, recover_support, support_exploration


def test_problems_are_what_was_asked_for() -> None:
    found = draw_sparse_problems(200, rows=12, columns=20, k=3, correlation=0.9, seed=1)
    assert found.A.shape == (200, 12, 20) and (found.support.sum(1) == 3).all()
    torch.testing.assert_close(found.A.norm(dim=1), torch.ones(200, 20, dtype=torch.float64))
    inner = torch.einsum("pmi,pmj->pij", found.A, found.A).mean(0)
    assert inner[4, 5].item() == pytest.approx(0.9, abs=0.03) and inner[4, 8].item() == pytest.approx(0.9**4, abs=0.07)
    x = torch.linalg.lstsq(found.A[0][:, found.support[0]], found.y[0].unsqueeze(1)).solution.squeeze(1)
    assert ((x.abs() > 1 - 1e-9) & (x.abs() < 2 + 1e-9)).all()
    assert torch.equal(found.A, draw_sparse_problems(200, rows=12, columns=20, k=3, correlation=0.9, seed=1).A)
    with pytest.raises(ConfigError, match="must hold"):
        draw_sparse_problems(1, rows=4, columns=8, k=5)


@pytest.mark.parametrize("method", RECOVERIES)
def test_orthonormal_columns_are_easy(method: str) -> None:
    A = torch.linalg.qr(torch.randn(4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    x = torch.zeros(4, 8, dtype=torch.float64)
    x[:, 2], x[:, 5] = 1.5, -1.0
    problems = SparseProblems(A=A, y=torch.einsum("pmn,pn->pm", A, x), support=x != 0, k=2)
    assert recover_support(problems, method=method, iterations=3).all()


def test_exploration_against_numpy() -> None:
    problems = draw_sparse_problems(6, rows=10, columns=20, k=4, correlation=0.8, seed=2)
    found = support_exploration(problems, 25)
    for i in range(6):
        A, y = problems.A[i].numpy(), problems.y[i].numpy()
        X, best, support = np.zeros(20), np.inf, None
        for _ in range(25):
            S = np.sort(np.argsort(-np.abs(X), kind="stable")[:4]) if X.any() else None
            if S is None:  # all are tied at the start; which four come first is the sort's affair
                S = torch.zeros(1, 20, dtype=torch.float64).topk(4, dim=1).indices[0].numpy()
            values = np.linalg.lstsq(A[:, S], y, rcond=None)[0]
            residual = A[:, S] @ values - y
            if residual @ residual < best:
                best, support = residual @ residual, set(S.tolist())
            X = X - A.T @ residual
        assert set(found[i].nonzero().flatten().tolist()) == support


@pytest.mark.parametrize("step", [2.0**-10, 8.0])
def test_the_step_size_is_no_setting(step: float) -> None:
    problems = draw_sparse_problems(20, rows=10, columns=20, k=4, seed=3)
    assert torch.equal(support_exploration(problems, 30, step=step), support_exploration(problems, 30))


def test_exploration_escapes_where_greed_is_caught() -> None:
    # Column 0 is close to the sum of the true columns 1 and 2, so matching pursuit takes it first and keeps it.
    A = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.3, 0.0, 0.0]], dtype=torch.float64)
    A = (A / A.norm(dim=0)).unsqueeze(0)
    problems = SparseProblems(A=A, y=A[..., 1] + A[..., 2], support=torch.tensor([[False, True, True]]), k=2)
    assert not recover_support(problems, method="omp").item()
    assert recover_support(problems, method="sea", iterations=50).item()


def test_exploration_leads_on_coherent_columns() -> None:
    problems = draw_sparse_problems(40, rows=24, columns=48, k=3, correlation=0.9)
    rates = {m: recover_support(problems, method=m, iterations=80).double().mean().item() for m in RECOVERIES}
    assert rates["sea"] > max(rates[m] for m in ("iht", "htp", "omp")) + 0.15, rates


def test_unknown_method() -> None:
    with pytest.raises(ConfigError, match="no method"):
        recover_support(draw_sparse_problems(1, rows=4, columns=8, k=1), method="seas")
