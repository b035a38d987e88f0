"""The page on pruned language models, on a model small enough to check."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.pruning import llm_oneshot
from experiments.pruning.llm_oneshot import METHODS, PATTERNS, Cell, Config, pruned, show
from experiments.pruning.texts import Reading
from wlab import models, pretrained, tree

SIZES = models.LlamaConfig(2, width=16, heads=4, kv_heads=2, ffn=24, vocab=50, context=16)


@pytest.fixture(scope="module")
def reading() -> Reading:
    model = models.llama(SIZES)
    params, plan = model.init(jax.random.key(0)), pretrained.Plan(())
    network = pretrained.Network(model, SIZES, params, pretrained.NameMap(()), plan)
    rows = np.random.default_rng(0).integers(0, 50, (8, 16)).astype(np.int32)
    return Reading(network, lambda seed: rows, rows.reshape(-1), 16)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_all_methods_keep_half_of_every_kernel_and_nothing_else_changes(reading, method, pattern):
    found = tree.leaves(pruned(reading, method, pattern, 0, batch=4))
    for path, leaf in tree.leaves(reading.network.params).items():
        if not path.endswith("kernel"):
            assert found[path] is leaf
            continue
        kept = np.asarray(found[path]) != 0
        assert kept.mean() == 0.5
        if pattern != "50 %":
            of = int(pattern[-1])
            assert (kept.reshape(-1, of, kept.shape[1]).sum(1) == of // 2).all()
        if method != "sparsegpt":
            np.testing.assert_array_equal(np.asarray(found[path])[kept], np.asarray(leaf)[kept])


def test_chance_differs_by_seed_and_by_leaf(reading):
    one, other = (tree.leaves(pruned(reading, "random", "50 %", s, batch=4)) for s in (0, 1))
    assert (one["block_0/up/kernel"] != other["block_0/up/kernel"]).any()
    up, gate = (np.asarray(one[f"block_0/{name}/kernel"]) != 0 for name in ("up", "gate"))
    assert (up != gate).any()


@pytest.mark.long
def test_what_is_kept_is_not_computed_again_and_is_shown(monkeypatch, tmp_path, reading):
    monkeypatch.setattr(llm_oneshot, "wikitext", lambda *args, **options: reading)
    config = Config(networks="tiny", methods="random,magnitude", seeds=2)
    results = llm_oneshot.run(config, tmp_path)
    cells = [(c["method"], c["pattern"]) for c in results["cells"]]
    assert len(cells) == 1 + 3 + 3 + 3
    assert Cell("tiny", "magnitude", "2:4", 0).path(tmp_path).name == "tiny-magnitude-2of4-0.json"
    monkeypatch.setattr(llm_oneshot, "pruned", lambda *args, **options: 1 / 0)
    assert llm_oneshot.run(config, tmp_path)["cells"] == results["cells"]
    table = show(results)
    assert "tiny, perplexity" in table and " to " in table
    assert jnp.isfinite(results["cells"][0]["perplexity"])
