"""Kinds of tensors: every parameter of a recurrence is known as one, in every registered family and every layer."""

import re
from functools import cache

import pytest
import torch
from torch import nn

import madzoo
from madzoo.layers import Hydra, Mamba2, Mamba3
from madzoo.quantization.plan import make_plan
from madzoo.quantization.tensor_kinds import RECURRENT, is_delicate, kind_of
from madzoo.registry import find_spec

MAMBA = {"A_log": "A", "D": "D", "dt_proj.weight": "dt", "dt_proj.bias": "dt"}
S4D = {"log_A_real": "A", "A_imag": "A", "log_dt": "dt", "C": "C", "D": "D"}
S4 = {"A_real": "A", "A_imag": "A", "P": "A", "inv_dt": "dt", "B": "B", "C": "C", "D": "D"}
S5 = {"Lambda_re": "A", "Lambda_im": "A", "log_step": "dt", "B": "B", "C": "C", "D": "D"}

# What belongs to the recurrence of each family, by the end of its name.
EXPECTED = {
    "bi_mamba_plus": MAMBA, "mambavision": MAMBA, "patch_mamba": MAMBA, "s_mamba": MAMBA, "timemachine": MAMBA,
    "weft": MAMBA, "plainmamba": {**MAMBA, "direction_Bs": "B"},
    "vim": {**MAMBA, "A_b_log": "A", "D_b": "D", "dt_proj_b.weight": "dt", "dt_proj_b.bias": "dt"},
    "vmamba": {"A_logs": "A", "Ds": "D", "dt_projs_weight": "dt", "dt_projs_bias": "dt"},
    "patch_s4d": S4D, "season_patch": S4D, "season_s4d": S4D, "s4": {**S4, **S4D}, "s4nd": S4, "flowstate": S5,
    "linoss": {"A_diag": "A", "steps": "dt", "B": "B", "C": "C", "D": "D"}, "longconv_delta": {"b_proj.weight": "dt"},
    "dlinear": {}, "itransformer": {}, "patchtst": {}, "rlinear": {}, "seasonal_naive": {},
}  # fmt: skip
# Tensors of their own, outside torch's layers, that belong to no recurrence.
OTHERS = {
    "pos_embed", "positions", "cls_token", "gamma", "gamma_1", "gamma_2", "balance", "kernel", "x_proj_weight",
    "affine_weight", "affine_bias", "weight", "bias",
}  # fmt: skip


@cache
def variants() -> dict[str, list[str]]:
    """One small architecture of each name pattern of each family."""
    found: dict[str, dict[str, str]] = {}
    for name in madzoo.list_models():
        pattern = re.sub(r"\d+", "", re.sub(r"_(micro|nano|tiny|small|base|large|etth\d|ettm\d)(?=_)", "", name))
        kept = found.setdefault(find_spec(name).family, {})
        if pattern not in kept or re.search("_(micro|nano|tiny|t)_", name):
            kept[pattern] = name
    return {family: list(kept.values()) for family, kept in found.items()}


def built(name: str) -> nn.Module:
    with torch.device("meta"):
        return madzoo.create_model(name)


def leaf_of(name: str) -> str:
    parts = name.split(".")
    return ".".join(parts[-2:]) if parts[-1] in ("weight", "bias") else parts[-1]


def test_every_family_is_stated() -> None:
    assert set(variants()) == set(EXPECTED)


@pytest.mark.parametrize("family", EXPECTED)
def test_the_recurrence_of_every_family_is_known_and_spared(family: str) -> None:
    found: dict[str, str] = {}
    for model in map(built, variants()[family]):
        plan = make_plan(model, 2)
        for name, p in model.named_parameters():
            if (kind := kind_of(name, p)) in RECURRENT:
                found[leaf_of(name)] = kind
                assert is_delicate(name, p) and plan[name].bits == 8, name
        for module in model.modules():
            if isinstance(module, nn.Linear) or type(module).__module__.startswith("torch.nn"):
                continue
            own = {name for name, _ in module.named_parameters(recurse=False)}
            assert own <= {*EXPECTED[family], *OTHERS}, f"{type(module).__name__} owns a tensor of no stated kind"
    assert found == EXPECTED[family]


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (Mamba2(16, d_state=4, headdim=8), {"A_log": "A", "dt_bias": "dt", "D": "D"}),
        (Mamba3(16, d_state=8, headdim=8), {"dt_bias": "dt", "B_bias": "B", "C_bias": "C", "D": "D"}),
        (
            Hydra(16, d_state=4, headdim=8, learnable_init_states=True),
            {"A_log": "A", "dt_bias": "dt", "D": "D", "fc_D.weight": "D", "init_states": "initial_state"},
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_layers_that_no_registered_model_uses(layer: nn.Module, expected: dict[str, str]) -> None:
    kinds = {leaf_of(name): kind_of(f"0.{name}", p) for name, p in layer.named_parameters()}
    assert {leaf: kind for leaf, kind in kinds.items() if kind in RECURRENT} == expected


def test_a_long_convolution_is_no_recurrence() -> None:
    kernel = torch.zeros(4, 16)
    assert kind_of("blocks.0.mixer.kernel", kernel) == "conv" and not is_delicate("blocks.0.mixer.kernel", kernel)
