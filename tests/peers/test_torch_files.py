"""Files that PyTorch wrote are read as PyTorch reads them; `make test-peers` installs it."""

from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from wlab.checkpoint.formats.torch_files import open_torch

FORMS = {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}}
DTYPES = [
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.complex64, torch.complex128),
]
ZIP_ONLY = [
    *(torch.uint16, torch.uint32, torch.uint64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
]


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 4)
        self.tied = self.linear
        self.norm = torch.nn.BatchNorm1d(4)
        self.act = torch.nn.ReLU()
        self.missing = None
        self.register_parameter("none", None)
        self.register_buffer("seen", torch.arange(3))
        self.register_buffer("hidden", torch.zeros(2), persistent=False)


class Tower(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
        self.blocks = torch.nn.Sequential(Block(), torch.nn.ModuleDict({"a": Block()}))


def bits(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_equals(source, tensors):
    assert list(source.arrays) == list(tensors)
    for name, tensor in tensors.items():
        lazy = source.arrays[name]
        array = lazy.read()
        assert f"torch.{lazy.dtype}" == str(tensor.dtype)
        assert array.dtype.name == lazy.dtype
        assert array.shape == lazy.shape == tuple(tensor.shape)
        assert array.tobytes() == bits(tensor), name


@pytest.fixture(params=FORMS)
def saved(request, tmp_path):
    def save(value) -> Path:
        torch.save(value, tmp_path / "w.pt", **FORMS[request.param])
        return tmp_path / "w.pt"

    return save


@pytest.mark.parametrize("dtype", DTYPES + ZIP_ONLY, ids=str)
def test_every_dtype(tmp_path, dtype):
    generator = torch.Generator().manual_seed(0)
    raw = torch.randint(0, 256 if dtype != torch.bool else 2, (96,), generator=generator)
    tensor = raw.to(torch.uint8).view(dtype)
    for form in FORMS if dtype in DTYPES else ["zip"]:
        torch.save({"w": tensor}, tmp_path / "w.pt", **FORMS[form])
        assert_equals(open_torch(tmp_path / "w.pt"), {"w": tensor})


def test_views_of_shared_storages(saved):
    base = torch.arange(24.0)
    views = {
        "base": base,
        "matrix": base.view(4, 6),
        "transposed": base.view(4, 6).T,
        "every other": base[1::2],
        "permuted": base.view(2, 3, 4).permute(2, 0, 1)[1:, :, ::2],
        "repeated": base[5:6].expand(3, 1),
        "scalar": base[7],
        "empty": base[3:3],
        "no rows": torch.zeros(0, 4),
    }
    assert_equals(open_torch(saved(views)), views)


def test_ties_are_aliases(saved):
    weight = torch.nn.Parameter(torch.ones(2, 3))
    source = open_torch(saved({"embed": weight, "head": weight, "part": weight[0]}))
    assert source.metadata == {"aliases": {"head": "embed"}}


def test_a_checkpoint_of_training(saved):
    model, steps = Tower(), 3
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5, betas=(0.9, 0.95))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    value = {
        "epoch": steps,
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "shape": torch.Size([2, 3]),
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "losses": [1.0, 0.5],
        "best": np.float64(0.25),
        "history": np.arange(3),
        "counts": defaultdict(int, {"a": 1}),
        "kinds": {"x"},
        "step_fn": torch.nn.functional.relu,
    }
    source = open_torch(saved(value))
    found = {n.removeprefix("state_dict."): a for n, a in source.arrays.items() if "state_d" in n}
    expected = model.state_dict()
    assert list(found) == list(expected)
    moment = source.arrays["optimizer.state.0.exp_avg"].read()
    assert moment.tobytes() == bits(optimizer.state_dict()["state"][0]["exp_avg"])
    np.testing.assert_array_equal(source.arrays["history"].read(), [0, 1, 2])
    rest = source.metadata
    assert (rest["epoch"], rest["losses"], rest["best"]) == (3, [1.0, 0.5], 0.25)
    assert (rest["shape"], rest["device"], rest["dtype"]) == ([2, 3], "cpu", "torch.float16")
    assert (rest["counts"], rest["kinds"]) == ({"a": 1}, ["x"])
    assert rest["step_fn"] == "torch.nn.functional.relu"
    assert rest["optimizer"]["param_groups"][0]["betas"] == [0.9, 0.95]


@pytest.mark.filterwarnings("ignore:.*source")
def test_a_whole_module_gives_the_names_of_its_state_dict(saved):
    model = Tower()
    source = open_torch(saved(model))
    assert_equals(source, dict(model.state_dict()))
    assert source.metadata["modules"]["blocks.1.a.norm"].endswith("BatchNorm1d")
    assert source.metadata["aliases"]["blocks.0.tied.bias"] == "blocks.0.linear.bias"


def test_parameters_with_attributes(saved):
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.no_decay = True
    tensor = torch.arange(3)
    tensor.note = "x"
    value = OrderedDict(a=parameter, b=tensor, c=torch.nn.Buffer(torch.zeros(1)))
    assert_equals(open_torch(saved(value)), value)


def test_a_lone_tensor_and_a_list(saved):
    assert_equals(open_torch(saved(torch.ones(2))), {"array": torch.ones(2)})
    assert_equals(open_torch(saved([torch.ones(2), (torch.zeros(1),)])), {
        "0": torch.ones(2), "1.0": torch.zeros(1)
    })  # fmt: skip


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(2, dtype=torch.complex64).conj(), "resolve_conj"),
        (torch.eye(2).to_sparse(), "_rebuild_sparse_tensor"),
        (Path("x"), "calls pathlib"),
        (torch.zeros(1).expand(10**9), "past the size of the file"),
    ],
)
def test_what_is_not_read_is_refused_by_name(saved, value, message):
    with pytest.raises(ValueError, match=message):
        open_torch(saved({"w": value}))


def test_unknown_calls_are_inert_when_asked(saved):
    path = saved({"w": torch.ones(1), "path": Path("x")})
    assert open_torch(path, strict=False).metadata["path"]["class"].startswith("pathlib")


def test_a_program_is_refused(tmp_path):
    with pytest.warns(DeprecationWarning):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "w.pt")
    with pytest.raises(ValueError, match="TorchScript"):
        open_torch(tmp_path / "w.pt")
