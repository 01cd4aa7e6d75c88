"""How a layer or an image model is held to the numbers of a published case: outputs, taps on the way, gradients."""

import pytest
import torch
from parity import LIMITS, relative_error, rule_input, weighted_sum

from madzoo.registry import find_spec

__all__ = [
    "assert_published",
    "assert_published_count",
    "assert_published_features",
    "assert_published_gradients",
    "case_input",
]


def case_input(case, tag, dtype):
    """Draws one of the inputs of a case."""
    described = case["inputs"][tag]
    return rule_input(described["seed"], tuple(described["shape"]), dtype)


def assert_published(ours, reference, dtype):
    """Checks a tensor, its shape and its dtype."""
    assert ours.dtype == dtype and ours.shape == reference.shape
    assert relative_error(ours, reference) < LIMITS[dtype]


def assert_published_count(name, count):
    """Checks the number of parameters of a variant, built without memory for them; returns its spec."""
    spec = find_spec(name)
    with torch.device("meta"):
        model = spec.build(spec.config)
    assert sum(p.numel() for p in model.parameters()) == count
    assert all(p.is_meta for p in model.parameters())
    return spec


def assert_published_gradients(module, case, reference, *, remap_keys=dict):
    """Checks, in float64, the weighted sum of the outputs and its gradients by all parameters and a recorded input."""
    grad = case["grad"]
    x = rule_input(grad["input"]["seed"], tuple(grad["input"]["shape"]), torch.float64).requires_grad_()
    loss = weighted_sum(module, x, grad["input"]["seed"])
    loss.backward()
    assert loss.item() == pytest.approx(grad["loss_value"], rel=1e-9)
    norms = {name: p.grad.norm().item() for name, p in module.named_parameters()}
    assert norms == pytest.approx(remap_keys(grad["param_grad_l2"]), rel=1e-9)
    if grad["input_grad_norm"] is not None:
        assert x.grad is not None
        assert x.grad.norm().item() == pytest.approx(grad["input_grad_norm"], rel=1e-9)
        assert relative_error(x.grad.flatten()[:: x.numel() // 256][:256], reference["grad.input.slice"]) < 1e-9


def assert_published_features(model, case, reference, tag, *, module_of=str, laid_out=lambda _name, tap: tap):
    """Checks logits, pooled features, and what named modules answer on the way.

    Args:
        model: in float32 or float64.
        case, reference: see :func:`parity.load_case`.
        tag: which input.
        module_of: from the name of a tap to that of our module.
        laid_out: from the name of a tap and what our module answers to the axes that the case was run with.
    """
    dtype, described, taps = next(model.parameters()).dtype, case["taps"][tag], {}
    hooks = [
        model.get_submodule(module_of(name)).register_forward_hook(
            lambda _module, _args, y, name=name: taps.update({name: laid_out(name, y)})
        )
        for name in described
    ]
    with torch.no_grad():
        features = model.forward_features(case_input(case, tag, dtype))
        logits, pooled = model.forward_head(features), model.forward_head(features, pre_logits=True)
    for hook in hooks:
        hook.remove()
    assert_published(logits, reference[f"{tag}.logits.float64"], dtype)
    assert_published(pooled, reference[f"{tag}.features.float64"], dtype)
    for name, summary in described.items():
        assert list(taps[name].shape) == summary["shape"]
        values = taps[name].flatten()[:: summary["flat_idx_stride"]][:64]
        assert relative_error(values, reference[f"{tag}.tap.{name}"]) < LIMITS[dtype]
