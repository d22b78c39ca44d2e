"""What several test files share."""
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny as tiny_models

from model import route_sample
from support import checkpoint as ckpt


@pytest.fixture(scope="session")
def warm(tmp_path_factory):
    """Words that start a script as `python` does, without importing torch again: see tests/warm.py."""
    file, address = Path(__file__).parent / "warm.py", str(tmp_path_factory.mktemp("warm") / "socket")
    server = subprocess.Popen([sys.executable, file, "serve", address])
    while not Path(address).exists():
        assert server.poll() is None
        time.sleep(0.05)
    yield [sys.executable, "-S", "-E", str(file), address]
    server.kill()
    server.wait()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The folder that tests/tiny.py makes, once per session. Only read it."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_models.make(folder)
    sample = ckpt.build(ckpt.load(folder / "sample_mixed.pt"))
    assert route_sample in {block.ff.route for block in sample.blocks}  # not in the first layer, which alone would draw nothing
    return folder
