"""The facade: every public name is there, is the right object, and nothing else is."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest

import madzoo
import madzoo.data.transforms
import madzoo.factory
import madzoo.workflows.finetune
import madzoo.workflows.forecast


@pytest.mark.parametrize("name", madzoo.__all__)
def test_every_public_name_resolves(name):
    assert getattr(madzoo, name) is getattr(madzoo, name)


def test_public_names_are_the_rooms_own():
    assert madzoo.create_model is madzoo.factory.create_model
    assert madzoo.list_models is madzoo.factory.list_models
    assert madzoo.model_info is madzoo.factory.model_info
    assert madzoo.create_transform is madzoo.data.transforms.create_transform
    assert madzoo.finetune is madzoo.workflows.finetune.finetune
    assert madzoo.forecast is madzoo.workflows.forecast.forecast
    assert madzoo.geometry.local_dimension and madzoo.quantization.quantize


def test_dir_lists_the_public_names():
    assert dir(madzoo) == sorted(madzoo.__all__)


@pytest.mark.parametrize("name", ["nonsense", "cli", "__path_of_nothing__"])
def test_an_unknown_name_is_an_attribute_error(name):
    with pytest.raises(AttributeError, match=name):
        madzoo.__getattr__(name)


def test_version_is_the_installed_one():
    try:
        installed = version("madzoo")
    except PackageNotFoundError:
        pytest.skip("madzoo runs from a tree that was never installed")
    assert madzoo.__version__ == installed


def test_rooms_are_reached_from_the_package_alone():
    script = "import madzoo; print(madzoo.ops.__name__, madzoo.geometry.__name__, madzoo.evaluation.__name__)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["madzoo.ops", "madzoo.geometry", "madzoo.evaluation"]
