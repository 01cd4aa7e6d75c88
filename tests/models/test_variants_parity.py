"""Every kind of published configuration, made small, against numbers that the authors' code gave for the same weights.

The weights go through the door that users take, from a file as the authors lay theirs out; outputs, other sizes and
gradient norms are compared in evaluation mode, and where there are batch norms in training mode too.
"""

import pytest
import torch
from parity import LIMITS, filled_state, load_case, relative_error, rule_input, weighted_sum

from madzoo.factory import create_model

LAYOUTS = {"vim": "model", "vmamba": "model", "plainmamba": "state_dict", "mambavision": "state_dict"}
CASES = {family: load_case(f"{family}_variants") for family in LAYOUTS}
VARIANTS = {arch: (family, case["variants"][arch]) for family, (case, _) in CASES.items() for arch in case["variants"]}
EVERY_VARIANT = pytest.mark.parametrize("arch", VARIANTS)
# A bias in front of a batch norm has no gradient while the norm is trained, only rounding.
CLOSE = {"rel": 1e-9, "abs": 1e-10}


def published(arch, folder, dtype=torch.float64):
    family, variant = VARIANTS[arch]
    before, path = torch.get_default_dtype(), folder / "authors.pth"
    torch.save({LAYOUTS[family]: filled_state(variant, dtype), "epoch": 299}, path)
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in variant["options"].items()}
    torch.set_default_dtype(dtype)
    try:
        return create_model(arch, checkpoint_path=path, **options)
    finally:
        torch.set_default_dtype(before)


def assert_gradients(model, recorded, names):
    x = rule_input(recorded["input"]["seed"], tuple(recorded["input"]["shape"]), torch.float64).requires_grad_()
    loss = weighted_sum(model, x, recorded["input"]["seed"])
    loss.backward()
    assert loss.item() == pytest.approx(recorded["loss_value"], rel=1e-9)
    assert x.grad.norm().item() == pytest.approx(recorded["input_grad_norm"], rel=1e-9)
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters()}
    assert norms == pytest.approx(dict(zip(names, recorded["param_grad_l2"], strict=True)), **CLOSE)


@EVERY_VARIANT
@pytest.mark.parametrize("dtype", LIMITS, ids=str)
def test_outputs_at_every_size(arch, dtype, tmp_path):
    family, variant = VARIANTS[arch]
    model = published(arch, tmp_path, dtype).eval()
    assert sum(p.numel() for p in model.parameters()) == variant["n_params"]
    for tag, entry in variant["inputs"].items():
        with torch.inference_mode():
            logits = model(rule_input(entry["seed"], tuple(entry["shape"]), dtype))
        assert relative_error(logits, CASES[family][1][f"{arch}.{tag}"]) < LIMITS[dtype], tag


@EVERY_VARIANT
def test_gradient_norms(arch, tmp_path):
    variant = VARIANTS[arch][1]
    assert_gradients(published(arch, tmp_path).eval(), variant["grad"], variant["params"])


@pytest.mark.parametrize("arch", [arch for arch, (_, variant) in VARIANTS.items() if "train" in variant])
def test_gradient_norms_and_statistics_in_training(arch, tmp_path):
    variant = VARIANTS[arch][1]
    model = published(arch, tmp_path).train()
    assert_gradients(model, variant["train"], variant["params"])
    sums = [buffer.sum().item() for name, buffer in model.named_buffers() if "num_batches" not in name]
    assert sums == pytest.approx(variant["train"]["buffers"], rel=1e-9)
