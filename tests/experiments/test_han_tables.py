"""The page on Han's tables, on the embedded digits: what is kept, resumed and shown."""

from pathlib import Path

import pytest

from experiments.pruning import han_tables

pytestmark = pytest.mark.usefixtures("standard_promotion")
CONFIG = han_tables.Config("digits", "lenet-300-100", seeds=2, steps=40, rounds=2, retrain=30)


@pytest.mark.slow
def test_as_many_weights_are_left_as_asked_and_kinds_that_are_there_are_not_trained_again(tmp_path):
    found = han_tables.run(CONFIG, tmp_path)
    page = found["lenet-300-100"]
    layers = han_tables.NETWORKS["lenet-300-100"].layers
    for (size, kept, _, spent), layer in zip(page["layers"], layers, strict=True):
        assert kept == round(100 * round(layer.density * size) / size, 1) and spent <= kept
    assert {kind: len(errors) for kind, errors in page["errors"].items()} == {
        "dense": 2,
        "pruned": 2,
        "by chance": 2,
    }
    kinds = {path.stem.removeprefix("lenet-300-100-"): path for path in tmp_path.iterdir()}
    assert {*kinds} == {"dense", "pruned", "by-chance"}
    times = {kind: path.stat().st_mtime_ns for kind, path in kinds.items()}
    kinds["by-chance"].unlink()
    assert han_tables.run(CONFIG, tmp_path) == found
    after = {kind: path.stat().st_mtime_ns for kind, path in kinds.items()}
    assert [kind for kind in kinds if after[kind] != times[kind]] == ["by-chance"]
    assert "22,000 weights in the paper" in han_tables.show(found)


def test_a_network_that_is_not_there_is_named(tmp_path):
    config = han_tables.Config("digits", networks="lenet-6")
    with pytest.raises(ValueError, match="no network 'lenet-6'; there are lenet-300-100, lenet-5"):
        han_tables.run(config, Path(tmp_path))
