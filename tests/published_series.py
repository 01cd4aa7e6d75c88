"""Published forecasters against their authors' outputs: a case's variants, each through the door that a user takes."""

import published_check
import torch
from parity import LIMITS, filled_state, relative_error, rule_input

from madzoo.factory import create_model

__all__ = ["assert_published_gradients", "assert_published_outputs", "built", "drawn"]


def drawn(described, dtype=torch.float64):
    """Returns the input that a case describes, None for none."""
    return described and rule_input(described["seed"], described["shape"], dtype)


def built(name, case, folder, *, dtype=torch.float64, tag=None, **changes):
    """Loads the weights of a case, or of one of its inputs, from an authors' file into a changed architecture."""
    state = filled_state(case | (case["inputs"][tag] if tag else {}), dtype)
    before, path = torch.get_default_dtype(), folder / "authors.pth"
    torch.save(state, path)
    torch.set_default_dtype(dtype)
    try:
        return create_model(name, checkpoint_path=path, **changes).eval()
    finally:
        torch.set_default_dtype(before)
        path.unlink()


def assert_published_outputs(name, case, reference, folder, *, dtype, tag, **changes):
    """Holds the forecasts for one input of a case to the authors'."""
    described = case["inputs"][tag]
    model = built(name, case, folder, dtype=dtype, tag=tag, **changes)
    extra = {"past_covariates": drawn(described["covariates"], dtype)} if "covariates" in described else {}
    with torch.no_grad():
        quantiles = model(drawn(described, dtype), **extra)
    assert quantiles.dtype == dtype and quantiles.shape[-1] == 1
    assert relative_error(quantiles[..., 0], reference[f"{tag}.out.float64"]) < LIMITS[dtype]


def assert_published_gradients(model, case, reference):
    """Holds the gradient norm of every parameter that serves, and of the input where recorded, to the authors'."""
    grad = case["grad"]
    extra = {"past_covariates": drawn(grad["covariates"])} if "covariates" in grad else {}
    published_check.assert_published_gradients(Answering(model, extra), case, reference)


class Answering(torch.nn.Module):
    """Gives a forecaster its covariates and takes its one level, under the forecaster's own parameter names."""

    def __init__(self, model, extra):
        super().__init__()
        self.answer = lambda x: model(x, **extra)[..., 0]
        self.named_parameters = model.named_parameters

    def forward(self, x):
        return self.answer(x)
