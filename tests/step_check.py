"""What every causal layer has to show: read one position after another it answers as it does to the whole."""

import torch

__all__ = ["assert_steps_equal_the_whole", "stepped"]


def stepped(layer, x_BLD):
    """Returns what a layer answers position by position, [B, L, D]."""
    state, found = layer.init_state(len(x_BLD)), []
    for x_t in x_BLD.unbind(1):
        y_t, state = layer.step(x_t, state)
        found.append(y_t)
    return torch.stack(found, 1)


def assert_steps_equal_the_whole(layer, x_BLD, *, tolerance):
    """Compares steps with every prefix of a sequence: no answer may depend on what comes later."""
    steps = stepped(layer, x_BLD)
    for length in range(1, x_BLD.shape[1] + 1):
        whole = layer(x_BLD[:, :length])
        torch.testing.assert_close(whole, steps[:, :length], rtol=tolerance, atol=tolerance)
