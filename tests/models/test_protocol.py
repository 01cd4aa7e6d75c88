"""What every image family owes its base class: one that forgets a part fails at once, and is told which part."""

import pytest

from madzoo.models.image.protocol import ImageClassifier, stage_info
from madzoo.models.image.vim import VimConfig

ARGUMENTS = {"num_features": 8, "feature_info": stage_info("layers.{}", [8], [4])}


def family(**parts):
    return type("Family", (ImageClassifier,), parts)


def test_a_family_that_makes_no_stream_is_not_built():
    assert family(_embed=None)(VimConfig(), **ARGUMENTS).num_features == 8
    with pytest.raises(TypeError, match="_embed"):
        family()(VimConfig(), **ARGUMENTS)


def test_a_family_of_sequences_says_how_they_lie_in_the_image():
    assert family(_embed=None, _grid=None, output_fmt="NLC")(VimConfig(), **ARGUMENTS).num_features == 8
    with pytest.raises(TypeError, match=r"Family .*_grid"):
        family(_embed=None, output_fmt="NLC")
