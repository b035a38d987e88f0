"""The page on moments in few bits, on a run small enough to check."""

import jax
import numpy as np
import pytest

from experiments.quantization.optimizer_8bit import Config, methods, run, show

TINY = Config(dataset="digits", methods="float32,8 bits,4 bits", seeds=2, steps=4)


@pytest.mark.long
def test_each_trains_and_a_run_that_is_there_is_not_done_again(tmp_path):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = run(TINY, tmp_path)
    assert list(found["methods"]) == list(methods(4096))[:3]
    assert len(list(tmp_path.glob("*.npz"))) == 3
    for each in found["methods"].values():
        assert np.isfinite(each["loss"]).all()
        assert len(each["error"]) == 2
    plain, eight, four = (found["methods"][name] for name in ("float32", "8 bits", "4 bits"))
    assert plain["bits"] > 64 > eight["bits"] > four["bits"]
    np.testing.assert_allclose(eight["loss"], plain["loss"], rtol=0.02)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.npz")}
    assert run(TINY, tmp_path) == found
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.npz")} == written


def test_distance_is_counted_in_deviations_of_float32():
    cells = {"float32": [1.0, 2.0, 3.0], "8 bits": [2.5, 2.5, 2.5]}
    found = {name: {"loss": loss, "error": loss, "bits": 8.0} for name, loss in cells.items()}
    rows = show({"methods": found}).splitlines()[2:]
    assert rows[0].split()[:4] == ["float32", "2.0000", "±", "1.0000"]
    assert rows[1].split()[-2] == "0.50"
