"""The pages on lottery tickets, on the embedded digits: what is kept, resumed, shown and drawn."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from experiments import chart
from experiments.lottery import connectivity, lenet_mnist

pytestmark = pytest.mark.usefixtures("standard_promotion")


def test_a_chart_is_a_picture_beside_the_result(tmp_path: Path):
    line = chart.Line("ticket", [100, 10], [[1, 2], [3, 5]])
    path = tmp_path / "chart.png"
    assert chart.draw(path, [chart.Panel("% left", "% right", [line])] * 2) == str(path)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.long
def test_rounds_are_nested_and_a_cut_off_run_goes_on(tmp_path: Path):
    config = lenet_mnist.Config(dataset="digits", seeds=2, levels=2, steps=100)
    whole = lenet_mnist.run(config, tmp_path)
    masks = [lenet_mnist.masks_at(tmp_path, level) for level in (1, 2, 3)]
    for before, after in itertools.pairwise(masks):
        for path in before:
            assert np.all(np.asarray(before[path]) | ~np.asarray(after[path]))
    hidden = np.asarray(masks[1]["fc1/kernel"]).mean((1, 2))
    np.testing.assert_allclose(hidden, 0.64, atol=1e-3)
    np.testing.assert_allclose(np.asarray(masks[1]["fc3/kernel"]).mean((1, 2)), 0.81, atol=1e-3)

    (tmp_path / "level-02.npz").unlink()
    assert lenet_mnist.run(config, tmp_path) == whole
    assert set(whole["levels"][2]["branches"]) == {"ticket", "reinit", "random"}
    assert [len(panel.lines) for panel in lenet_mnist.panels(whole)] == [3, 3, 3]
    assert len(lenet_mnist.show(whole).splitlines()) == 2 + 1 + 2 * 3


def test_a_barrier_is_read_off_every_line():
    rows = [{"left": 0.1, "network": "ticket", "errors": [[1.0, 4.0, 2.0], [1.0, 1.0, 1.0]]}]
    assert "1.25 [0.00, 2.50]" in connectivity.show({"rows": rows})
    (panel,) = connectivity.panels({"rows": rows})
    assert panel.lines[0].y == ([2.5, 0.0],)
