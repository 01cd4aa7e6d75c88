"""Fixtures of the workflow tests."""

import pytest

from tests.workflows.tiny_data import make_data


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))
