"""What every test shares: one thread, a fixed seed, the folder of public data sets, and Chromium."""

import os
import shutil
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    folder = os.environ.get("RECUR_TEST_DATA")
    if not folder:
        pytest.skip("RECUR_TEST_DATA does not name the folder of the public data sets")
    return Path(folder)


@pytest.fixture(scope="session")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if not found:
        pytest.skip("Chromium is not installed (Debian package: chromium)")
    return found
