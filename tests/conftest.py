"""What several test files share."""
import pytest
import tiny as tiny_models

from model import route_sample
from support import checkpoint as ckpt


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The folder that tests/tiny.py makes, once per session. Only read it."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_models.make(folder)
    sample = ckpt.build(ckpt.load(folder / "sample_mixed.pt"))
    assert route_sample in {block.ff.route for block in sample.blocks}  # not in the first layer, which alone would draw nothing
    return folder
