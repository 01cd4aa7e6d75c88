"""The published point forecasters against their authors' outputs and gradients; their weights at another horizon."""

import dataclasses
import logging
from typing import Any, NamedTuple

import pytest
import torch
from parity import load_case
from published_series import assert_published_gradients, assert_published_outputs, built

from madzoo.errors import CheckpointError
from madzoo.factory import create_model
from madzoo.registry import find_spec


class Published(NamedTuple):
    """One case: the name it is loaded into, by input what is changed, and what else its configuration says."""

    name: str
    case: str
    changes: dict[str, dict[str, Any]]
    restarted: str  # a tensor that another horizon begins anew
    refused: str  # a field that no weights outlive


CASES = [
    Published(
        "bi_mamba_plus_small_patch4_96_96",
        "bi_mamba_plus_small",
        {
            "mixed": {},
            "marks": {},
            "independent": {"mix_channels": False},
            "one_way": {"bidirectional": False},
            "no_residual": {"residual": False, "activation": "relu", "use_norm": False},
            "padded": {"context_length": 97, "patch_size": 8, "patch_stride": 4},
        },
        "head.linear.weight",
        "depth",
    ),
    Published(
        "s_mamba_small_96_96",
        "s_mamba_small",
        {"plain": {}, "marks": {}, "raw": {"use_norm": False}},
        "projector.weight",
        "d_state",
    ),
    Published(
        "timemachine_etth1_96_96",
        "timemachine_etth1",
        {
            "independent": {},
            "plain_norm": {"affine_norm": False},
            "no_residual": {"residual": False},
            "mixed": {"mix_channels": True, "n1": 64, "n2": 16, "d_state": 8, "affine_norm": False},
        },
        "lin4.weight",
        "n2",
    ),
]
INPUTS = [pytest.param(one, tag, id=f"{one.case}-{tag}") for one in CASES for tag in one.changes]
EACH = pytest.mark.parametrize("published", CASES, ids=lambda published: published.case)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("published", "tag"), INPUTS)
def test_published_outputs(published, tag, dtype, tmp_path):
    case, reference = load_case(published.case)
    changes = published.changes[tag]
    assert_published_outputs(published.name, case, reference, tmp_path, dtype=dtype, tag=tag, **changes)


@EACH
def test_every_published_input_is_met(published):
    assert set(load_case(published.case)[0]["inputs"]) == set(published.changes)


@EACH
def test_published_gradients(published, tmp_path):
    case, reference = load_case(published.case)
    assert_published_gradients(built(published.name, case, tmp_path), case, reference)


@EACH
def test_another_horizon_begins_with_a_new_last_map(published, tmp_path, caplog):
    path = tmp_path / "weights.pth"
    torch.save(create_model(published.name).state_dict(), path)
    with caplog.at_level(logging.WARNING):
        model = create_model(published.name, checkpoint_path=path, prediction_length=24)
    assert model.config.prediction_length == 24 and published.restarted in caplog.text
    spec = find_spec(published.name)
    size = getattr(spec.config, published.refused)
    assert spec.adapt_weights is not None
    with pytest.raises(CheckpointError, match=f"{published.refused}: {size} -> {size + 1}"):
        spec.adapt_weights({}, spec.config, dataclasses.replace(spec.config, **{published.refused: size + 1}))
