"""What tests of several verbs need."""

import pytest

from wlab import data


@pytest.fixture
def cached():
    def check(*names: str) -> None:
        for name in names:
            if not (data.cache_folder() / name).exists():
                pytest.skip(f"{name} is not cached: fetch it to test what `wlab` makes of it")

    return check
