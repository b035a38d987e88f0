"""HDF5 files that h5py wrote; `make test-peers` installs it."""

import h5py
import numpy as np
import pytest

from wlab.checkpoint.formats.hdf5 import open_hdf5

DTYPES = ["bool", "int8", "uint16", "int64", "float16", "float32", "float64", "complex64"]


def array(dtype, shape=(3, 4)):
    values = np.random.default_rng(0).integers(0, 100, shape)
    return values.astype(dtype)


@pytest.mark.parametrize("options", [{}, {"chunks": (2, 2), "compression": "gzip"}])
@pytest.mark.parametrize("dtype", [*DTYPES, ">f4", ">i2"])
def test_every_dtype(tmp_path, dtype, options):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.create_dataset("a/w", data=array(dtype), **options)
    lazy = open_hdf5(tmp_path / "w.h5").arrays["a/w"]
    found = lazy.read()
    assert lazy.dtype == found.dtype.name == np.dtype(dtype).name
    assert found.dtype.isnative and lazy.shape == (3, 4)
    np.testing.assert_array_equal(found, array(dtype))


def keras_file(path, root=""):
    """The layout of `Model.save_weights` (and, under `model_weights`, of `Model.save`)."""
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = "2.11.0"
        file.attrs["model_config"] = b'{"class_name": "Sequential"}'
        group = file.create_group(root) if root else file
        group.attrs["layer_names"] = [b"z_first", b"a_second", b"no_weights"]
        for layer in ("z_first", "a_second"):
            inner = group.create_group(layer)
            inner.attrs["weight_names"] = [f"{layer}/kernel:0".encode(), f"{layer}/bias:0".encode()]
            inner[f"{layer}/bias:0"] = np.zeros(3, np.float32)
            inner[f"{layer}/kernel:0"] = array("float32")
        group.create_group("no_weights").attrs["weight_names"] = np.zeros(0)
        file["extra"] = np.int64(3)


@pytest.mark.parametrize("root", ["", "model_weights"])
def test_the_order_of_keras(tmp_path, root):
    keras_file(tmp_path / "w.h5", root)
    source = open_hdf5(tmp_path / "w.h5")
    prefix = f"{root}/" if root else ""
    layers = [f"{prefix}{layer}/{layer}" for layer in ("z_first", "a_second")]
    weights = [f"{layer}/{name}:0" for layer in layers for name in ("kernel", "bias")]
    assert list(source.arrays) == [*weights, "extra"]
    assert source.metadata["keras_version"] == "2.11.0"
    assert source.metadata["model_config"] == '{"class_name": "Sequential"}'
    assert source.arrays["extra"].read().item() == 3


def soft(file, folder):
    file["link"] = h5py.SoftLink("/w")


def external(file, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other["secret"] = np.ones(3)
    file["link"] = h5py.ExternalLink("other.h5", "/secret")


def external_data(file, folder):
    (folder / "raw").write_bytes(bytes(12))
    file.create_dataset("out", (3,), "f4", external=[(str(folder / "raw"), 0, 12)])


def virtual(file, folder):
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource(folder / "other.h5", "w", (3,))
    file.create_virtual_dataset("virtual", layout)


def loop(file, folder):
    file["a/b/c"] = np.ones(1)
    file["a/b/up"] = file["a"]


def unstored(file, folder):
    file.create_dataset("huge", (2**40,), "f4", chunks=(2**20,))


def unstored_gzip(file, folder):
    file.create_dataset("huge", (2**40,), "f4", chunks=(2**20,), compression="gzip")


def bomb_of_one_chunk(file, folder):
    huge = file.create_dataset("huge", (2**31,), "f4", chunks=(2**10,), compression="gzip")
    huge[:1024] = 0


HOSTILE = {
    soft: "'link' is a link",
    external: "'link' is a link",
    external_data: "'out' lies in other files",
    virtual: "'virtual' lies in other files",
    loop: "'a/b/up' nests too deep or is reached a second time",
    unstored: "'huge' claims 4,398,046,511,104 bytes, of which 0 are stored",
    unstored_gzip: "'huge' claims 4,398,046,511,104 bytes, of which 0 are stored",
    bomb_of_one_chunk: "'huge' claims 8,589,934,592 bytes",
    (lambda file, _: file.create_dataset("t", data="text")): "'t' .* not one of numbers",
    (lambda file, _: file.create_dataset("r", data=np.zeros(2, "i4,f4"))): "'r' .* not one of",
    (lambda file, _: file.create_dataset("e", data=h5py.Empty("f4"))): "'e' has no elements",
}


@pytest.mark.parametrize(("write", "message"), HOSTILE.items())
def test_what_is_not_read_is_refused_by_name(tmp_path, write, message):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["w"] = np.ones(3)
        write(file, tmp_path)
    with pytest.raises(ValueError, match=message):
        open_hdf5(tmp_path / "w.h5")


def test_a_dataset_of_zeros_that_fits_is_read(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.create_dataset("w", (8,), "f4", chunks=(4,), fillvalue=2.0)
        file.create_dataset("zeros", data=np.zeros(10**6, "f4"), compression="gzip")
    source = open_hdf5(tmp_path / "w.h5")
    np.testing.assert_array_equal(source.arrays["w"].read(), np.full(8, 2, np.float32))
    assert not source.arrays["zeros"].read().any()


@pytest.mark.parametrize("keep", [0, 1, 8, 100, 600, 1500, 2500])
def test_a_cut_off_file_is_refused(tmp_path, keep):
    keras_file(tmp_path / "w.h5")
    whole = (tmp_path / "w.h5").read_bytes()
    assert len(whole) > 2500
    (tmp_path / "w.h5").write_bytes(whole[:keep])
    with pytest.raises(ValueError, match="cannot be read as HDF5"):
        open_hdf5(tmp_path / "w.h5")
