"""Weights for other classes and channels: what is kept, what is left out, what is repeated or summed."""

from types import SimpleNamespace

import pytest
import torch

from madzoo.models.image.transfer import fit_head_and_stem

STATE = {"stem.weight": torch.randn(8, 3, 4, 4), "norm.weight": torch.ones(8), "head.weight": torch.randn(5, 8)}
STATE["head.bias"] = torch.randn(5)
TRAINED = SimpleNamespace(num_classes=5, in_chans=3)


def fitted(state=STATE, source=TRAINED, **target):
    target = SimpleNamespace(**{**vars(TRAINED), **target})
    return fit_head_and_stem(state, source, target, head="head.", stem="stem.weight")


@pytest.mark.parametrize("num_classes", [0, 7])
def test_a_head_for_other_classes_is_left_out(num_classes):
    assert fitted(num_classes=num_classes).keys() == {"stem.weight", "norm.weight"}


@pytest.mark.parametrize(("in_chans", "copied"), [(4, [0, 1, 2, 0]), (6, [0, 1, 2, 0, 1, 2]), (2, [0, 1])])
def test_a_stem_repeats_for_other_channels(in_chans, copied):
    expected = STATE["stem.weight"][:, copied] * (3 / in_chans)
    torch.testing.assert_close(fitted(in_chans=in_chans)["stem.weight"], expected)


def test_a_stem_sums_for_one_channel():
    torch.testing.assert_close(fitted(in_chans=1)["stem.weight"], STATE["stem.weight"].sum(1, keepdim=True))


def test_what_fits_already_stays_whatever_it_was_taken_for():
    """Weights of a bare file are taken for those that the architecture was published with; a fine-tuned head stays."""
    published = SimpleNamespace(num_classes=1000, in_chans=1)
    kept = fitted(source=published)
    assert all(kept[name] is STATE[name] for name in STATE)
    assert fitted().keys() == STATE.keys()


def test_nothing_is_changed_in_place():
    before = {name: value.clone() for name, value in STATE.items()}
    fitted(in_chans=1, num_classes=0)
    assert STATE.keys() == before.keys() and all(torch.equal(STATE[name], before[name]) for name in before)
