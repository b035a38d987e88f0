"""What an extra brings is loaded when it is needed, or the extra is named."""

import json

import pytest

from wlab.extras import required


def test_a_package_that_is_here_is_loaded():
    assert required("json", extra="none") is json


def test_one_that_is_missing_names_its_extra():
    said = r'nowhere.at_all is not installed: pip install "weightlab\[text\]"'
    with pytest.raises(ImportError, match=said):
        required("nowhere.at_all", extra="text")
