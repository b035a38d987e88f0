import jax
import numpy as np
import optax
import pytest
import toy
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import wlab
from wlab import training


def test_a_mesh_is_read_from_text():
    mesh = training.mesh_from("data=4, model=2")
    assert dict(mesh.shape) == {"data": 4, "model": 2}
    assert dict(training.mesh_from("data=-1,model=2").shape) == {"data": 4, "model": 2}
    assert training.mesh_from("data=2").axis_types == (AxisType.Auto,)
    assert training.mesh_from("data=2", explicit=True).axis_types == (AxisType.Explicit,)


@pytest.mark.parametrize(
    "text", ["", "data", "data=x", "data=0", "data=2,data=2", "data=16", "a=-1,b=-1", "a=3,b=-1"]
)
def test_a_mesh_that_cannot_be_made_is_refused(text: str):
    with pytest.raises(ValueError, match="Mesh"):
        training.mesh_from(text)


def test_rows_go_to_the_data_axes_only():
    mesh = training.mesh_from("data=2,fsdp=2,model=2")
    batch = training.place_batch({"x": np.ones((8, 3))}, mesh)
    assert batch["x"].sharding.spec == P(("data", "fsdp"))
    assert {s.data.shape for s in batch["x"].addressable_shards} == {(2, 3)}


def test_rows_that_do_not_divide_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"9 rows .* 8 data shards.*weight 0"):
        training.place_batch({"x": np.ones((9, 3))}, training.mesh_from("data=8"))


def compile_on(mode: str, mesh_text: str | None, split: str | None = None):
    mesh = None if mesh_text is None else training.mesh_from(mesh_text)
    tx, rules = optax.sgd(0.1), [("kernel", P(split)), ("bias", P())]
    options = {} if mesh is None else {"mesh": mesh, "rules": rules}
    state = toy.begin(wlab.identity(), tx, **options)
    step = training.make_step(toy.loss, wlab.identity(), tx)
    return training.compile_step(step, state, mode=mode, mesh=mesh)


@pytest.mark.parametrize(
    ("mode", "mesh", "split", "message"),
    [
        ("pmap", "data=4,model=2", None, r"data-parallel only.*\['model'\]"),
        ("pmap", "data=4", "data", r"'stored/kernel' whole"),
        ("shard_map", "data=4", "data", r"'stored/kernel' whole.*mode=\"jit\""),
        ("shard_map", "model=2", None, 'named "data"'),
        ("shard_map", None, None, "pass mesh="),
    ],
)
def test_modes_that_do_not_fit_the_mesh_are_refused(mode, mesh, split, message):
    with pytest.raises(ValueError, match=message):
        compile_on(mode, mesh, split)


def test_the_state_keeps_its_sharding_through_a_step():
    mesh = training.mesh_from("data=4,model=2")
    tx, rules = optax.sgd(0.1, momentum=0.9), [("kernel", P(None, "model")), ("bias", P())]
    state = toy.begin(wlab.identity(), tx, mesh=mesh, rules=rules)
    before = jax.tree.map(lambda x: x.sharding, state)
    step = training.compile_step(
        training.make_step(toy.loss, wlab.identity(), tx), state, mesh=mesh
    )
    state, _ = step(state, toy.rows())
    assert jax.tree.map(lambda x: x.sharding, state) == before


def test_an_unknown_mode_is_refused():
    with pytest.raises(Exception, match="mode"):  # by us, or first by the type checker of tests
        compile_on("xmap", "data=2")
