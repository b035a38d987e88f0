"""What tests of several verbs need."""

import pytest
import story

from wlab import data


@pytest.fixture
def cached():
    def check(*names: str) -> None:
        for name in names:
            if not (data.cache_folder() / name).exists():
                pytest.skip(f"{name} is not cached: fetch it to test what `wlab` makes of it")

    return check


@pytest.fixture
def gguf_file(tmp_path) -> str:
    story.write_gguf(tmp_path / "w.gguf")
    return str(tmp_path / "w.gguf")


@pytest.fixture
def words(tmp_path) -> str:
    (tmp_path / "t.txt").write_text(story.TEXT)
    return str(tmp_path / "t.txt")
