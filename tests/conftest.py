"""What tests of several rooms share."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def mnist_folder():
    folder = os.environ.get("LOCKSTEP_MNIST")
    if not folder:
        pytest.skip("LOCKSTEP_MNIST doesn't name the folder of MNIST's four IDX files")
    return Path(folder)
