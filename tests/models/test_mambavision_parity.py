"""MambaVision T against numbers that the authors' code gave, loaded as users load it: outputs and gradient norms."""

import pytest
import torch
from parity import LIMITS, load_case, load_published, relative_error, rule_input, weighted_sum

NAME = "mambavision_t_224"
CASE, REFERENCE = load_case(NAME)


@pytest.fixture(scope="module", params=LIMITS, ids=str)
def published(request, tmp_path_factory):
    return load_published(NAME, CASE, request.param, tmp_path_factory.mktemp("authors"))


@pytest.mark.parametrize("tag", CASE["inputs"])
def test_outputs(published, tag):
    dtype = next(published.parameters()).dtype
    entry = CASE["inputs"][tag]
    with torch.inference_mode():
        logits = published(rule_input(entry["seed"], tuple(entry["shape"]), dtype))
    assert relative_error(logits, REFERENCE[f"{tag}.logits.float64"]) < LIMITS[dtype]


def test_gradient_norms(published):
    if next(published.parameters()).dtype != torch.float64:
        pytest.skip("the norms are those of float64")
    grad = CASE["grad"]
    x = rule_input(grad["input"]["seed"], tuple(grad["input"]["shape"]), torch.float64).requires_grad_()
    published.zero_grad()
    loss = weighted_sum(published, x, grad["input"]["seed"])
    loss.backward()
    assert loss.item() == pytest.approx(grad["loss_value"], rel=1e-9)
    assert x.grad.norm().item() == pytest.approx(grad["input_grad_norm"], rel=1e-9)
    norms = {name: p.grad.norm().item() for name, p in published.named_parameters()}
    assert norms == pytest.approx(grad["param_grad_l2"], rel=1e-9, abs=1e-12)
