"""A run over stages that was cut off goes on behind the last one that is whole."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab.calibration import Finished
from wlab.calibration.finished import fingerprint
from wlab.checkpoint import finished_in
from wlab.pruning import Neighbours, sparsegpt, wanda
from wlab.quantization import awq, gptq, int4, mse, row_grids

STAGES = ("a", "b", "c")
PARAMS = {
    name: {"kernel": jax.random.normal(jax.random.key(i), (16, 16)), "gain": jnp.ones((1, 16))}
    for i, name in enumerate(STAGES)
}
RULES = [(".*/kernel", int4(group_size=8)), (".*", None)]
HALVES = [(".*/kernel", Neighbours(keep=2, of=4)), (".*", None)]
LOUDER = jnp.arange(1.0, 17.0)[None]
BATCHES = [(jax.random.normal(jax.random.key(i), (24, 16)) * LOUDER,) for i in (7, 8)]


def net(params, x):
    for name in STAGES:
        x = jax.nn.relu((x * params[name]["gain"]) @ params[name]["kernel"])
    return x


def scaled(*args, **options):
    """AWQ, with the factors alone of what it moved."""
    found = awq(*args, **options)
    return found._replace(moved=[factors for _, factors in found.moved])


RUNS = {
    "gptq": partial(gptq, net, rules=RULES),
    "gptq, ordered": partial(gptq, net, rules=RULES, act_order=True, range_fn=mse((1.0, 0.9))),
    "gptq, codes": partial(gptq, net, rules=RULES, codes_only=True),
    "wanda": partial(wanda, net, rules=HALVES),
    "sparsegpt": partial(sparsegpt, net, rules=HALVES),
    "sparsegpt, rounded": partial(
        *(sparsegpt, net),
        rules=HALVES,
        grids=[(".*/kernel", row_grids(int4(group_size=8))), (".*", None)],
    ),
    "awq": partial(scaled, net, rules=RULES, grid=5, clip=True),
    "awq, codes": partial(scaled, net, rules=RULES, grid=5, clip=True, codes_only=True),
}


class CutOff(Exception):
    """The machine is gone."""


def cut_off_in(stage: str):
    def report(at: str, done: int) -> None:
        if at.startswith(stage) and done == 2:
            raise CutOff

    return report


def counted(finished: Finished) -> tuple[Finished, list[str]]:
    saved: list[str] = []

    def save(stage, of, arrays):
        saved.append(stage)
        finished.save(stage, of, arrays)

    return finished._replace(save=save), saved


def run(name: str, **options):
    options = {
        "params": PARAMS,
        "batches": BATCHES,
        "stages": [f"{s}/.*" for s in STAGES],
    } | options
    return RUNS[name](**options)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("stage", ["a", "c"])
def test_the_result_is_the_same_and_no_stage_is_done_twice(name, stage, tmp_path):
    wanted = run(name)
    with pytest.raises(CutOff):
        run(name, finished=finished_in(tmp_path), report=cut_off_in(stage))
    for left in ({"a": 3, "c": 1}[stage], 0):
        finished, saved = counted(finished_in(tmp_path))
        found = run(name, finished=finished)
        assert len(saved) == left
        assert jax.tree.structure(found) == jax.tree.structure(wanted)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), found, wanted)


@pytest.mark.parametrize("name", ["gptq", "awq"])
def test_without_a_tree_of_values_the_codes_are_the_same(name):
    whole, codes = run(name), run(f"{name}, codes")
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, (codes.params, PARAMS)), strict=True))
    found, wanted = codes._replace(params=None), whole._replace(params=None)
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_awq_has_factors_to_find_again():
    """Else the runs that were cut off would show nothing of them."""
    found = run("awq")
    assert len(found.moved) == 3 and any(max(power) > 0 for power in found.powers.values())


def test_leaves_come_back_to_the_mesh_that_they_were_on(tmp_path):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    halves = jax.NamedSharding(mesh, jax.P(None, "data"))
    whole = jax.NamedSharding(mesh, jax.P())
    params, batches = jax.device_put(PARAMS, halves), jax.device_put(BATCHES, whole)
    for _ in range(2):
        found = run("wanda", params=params, batches=batches, finished=finished_in(tmp_path))
    assert found["a"]["kernel"].sharding.is_equivalent_to(halves, 2)
    jax.tree.map(np.testing.assert_array_equal, found, run("wanda"))


def test_functions_are_told_apart_by_what_they_hold():
    def power(p):
        def again(x):
            return again if x else p

        return again

    assert fingerprint({}, [], power(2)) == fingerprint({}, [], power(2))
    assert fingerprint({}, [], power(2)) != fingerprint({}, [], power(3))
    assert fingerprint({}, [], partial(pow, 2)) != fingerprint({}, [], partial(pow, 3))


@pytest.mark.parametrize(
    "other",
    [
        {"damping": 0.1},
        {"batches": BATCHES[::-1]},
        {"rules": [(".*/kernel", int4(group_size=16)), (".*", None)]},
        {"params": PARAMS | {"b": {**PARAMS["b"], "kernel": PARAMS["b"]["kernel"] + 1e-3}}},
        {"range_fn": mse((1.0, 0.8))},
        {"stages": ["a/.*", "[bc]/.*"]},
    ],
    ids=lambda other: next(iter(other)),
)
def test_stages_of_another_run_are_refused(other, tmp_path):
    name = "gptq, ordered"
    run(name, finished=finished_in(tmp_path))
    with pytest.raises(ValueError, match=r"is stage 'a/.*' of other weights, batches or options"):
        run(name, finished=finished_in(tmp_path), **other)


def test_a_damaged_stage_is_named(tmp_path):
    run("wanda", finished=finished_in(tmp_path))
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    for file in files:
        file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"\.safetensors"):
        run("wanda", finished=finished_in(tmp_path))
