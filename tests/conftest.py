"""What several test files share."""
import pytest
import tiny as tiny_models


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The folder that tests/tiny.py makes, once per session. Only read it."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_models.make(folder)
    return folder
