"""Without h5py an HDF5 file is refused with the remedy; tests/peers reads real ones."""

import sys

import pytest

from wlab.checkpoint.formats.hdf5 import open_hdf5


def test_the_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r'pip install "weightlab\[hdf5\]"'):
        open_hdf5(tmp_path / "w.h5")
