"""Adapters in PEFT's files, against W + s B A written out in the file's own names."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from wlab import tree
from wlab.checkpoint import open_source, save_safetensors
from wlab.pretrained import (
    Mapped,
    NameMap,
    load_adapter,
    merge_adapter,
    move,
    prefixed,
    save_adapter,
)
from wlab.pretrained.ops import Halves, Reshape, Split, Stack, Transpose, forward
from wlab.transfer import Adaptation, Adapter, dora, lora

RNG = np.random.default_rng(0)
RANK, ALPHA = 2, 3
MAP = NameMap(
    (
        move("emb.weight", "embed/embedding"),
        move("q.weight", "q/kernel", Halves(2), Transpose()),
        move("kv.weight", ["k/kernel", "v/kernel"], Split((4, 2)), Transpose()),
        move(["h.0.up.weight", "h.1.up.weight"], "up/kernel", Transpose(), Stack()),
        move("o.weight", "o/kernel", Transpose(), Reshape((8, 6), (2, 4, 6))),
        move("conv.weight", "conv/kernel", Transpose((2, 3, 1, 0))),
        move("norm.weight", "norm/scale"),
        move("head.weight", "head/kernel", Transpose()),
        move("head.bias", "head/bias"),
    )
)
SHAPES = {
    "emb.weight": (7, 6),
    "q.weight": (8, 6),
    "kv.weight": (6, 5),
    "h.0.up.weight": (4, 6),
    "h.1.up.weight": (4, 6),
    "o.weight": (6, 8),
    "conv.weight": (4, 3, 2, 3),
    "norm.weight": (6,),
    "head.weight": (5, 6),
    "head.bias": (5,),
}
BASE = {name: RNG.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
ADAPTED = ["emb", "q", "kv", "h.0.up", "h.1.up", "o", "conv"]
KINDS = {
    "LoRA": {},
    "rsLoRA": {"use_rslora": True},
    "DoRA": {"use_dora": True},
}
EACH = pytest.mark.parametrize("kind", KINDS)


def ours(arrays: dict[str, np.ndarray], name_map: NameMap = MAP) -> dict:
    """The tree that the map makes of arrays under the file's names."""
    flat = {
        path: jnp.asarray(np.ascontiguousarray(x))
        for one in name_map.moves
        for path, x in zip(one.ours, forward(one.ops, [arrays[n] for n in one.theirs]), strict=True)
    }
    nested: dict = {}
    for path, x in flat.items():
        *parents, last = path.split("/")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = x
    return nested


NET = Mapped(ours(BASE), MAP)


def drawn(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def factors(module: str, rank: int = RANK, *, magnitude: bool = False) -> dict[str, np.ndarray]:
    """Random ones under PEFT's names and in its shapes."""
    at, shape = f"base_model.model.{module}", SHAPES[f"{module}.weight"]
    ones = (1,) * len(shape[2:])
    if module == "emb":
        outputs = shape[1]
        found = {"embedding_A": drawn(rank, shape[0]), "embedding_B": drawn(shape[1], rank)}
    else:
        outputs = shape[0]
        found = {
            "A.weight": drawn(rank, *shape[1:]),
            "B.weight": drawn(shape[0], rank, *ones),
        }
    if magnitude:
        found["magnitude_vector"] = 1 + np.abs(drawn(*ones[:1], outputs, *ones))
    return {f"{at}.lora_{name}": x for name, x in found.items()}


def saved(folder, arrays: dict[str, np.ndarray], **config: object):
    folder.mkdir(exist_ok=True)
    fields = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": ALPHA,
        "bias": "none",
        "lora_dropout": 0.1,
        "target_modules": ADAPTED,
        "init_lora_weights": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(fields | config))
    save_safetensors(folder / "adapter_model.safetensors", arrays)
    return folder


def changed(arrays: dict[str, np.ndarray], scale: float) -> dict[str, np.ndarray]:
    """The base with PEFT's factors folded in, in float64."""
    found = {}
    for name, w in BASE.items():
        at = f"base_model.model.{name.removesuffix('.weight')}.lora_"
        a = arrays.get(f"{at}A.weight", arrays.get(f"{at}embedding_A"))
        b = arrays.get(f"{at}B.weight", arrays.get(f"{at}embedding_B"))
        if a is None or b is None:
            found[name] = w
            continue
        a, b = a.astype(np.float64), b.astype(np.float64)
        change = b.reshape(b.shape[:2]) @ a.reshape(len(a), -1)
        change = (change.T if name == "emb.weight" else change).reshape(w.shape)
        found[name] = w + scale * change
        m = arrays.get(f"{at}magnitude_vector")
        if m is not None:
            axes = (0,) if name == "emb.weight" else tuple(range(1, w.ndim))
            length = np.sqrt((found[name] ** 2).sum(axes, keepdims=True))
            found[name] = found[name] * (m.reshape(length.shape) / length)
    return found


def assert_trees_close(got, want, **tolerance):
    assert tree.paths(got) == tree.paths(want)
    for (path, x), y in zip(tree.leaves(got).items(), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(x, y, **tolerance, err_msg=path)


@EACH
def test_every_kind_of_kernel_is_changed_as_the_file_says(kind, tmp_path):
    arrays = {}
    for module in ADAPTED:
        arrays |= factors(module, magnitude=kind == "DoRA")
    folder = saved(tmp_path / "a", arrays, **KINDS[kind])
    scale = ALPHA / np.sqrt(RANK) if kind == "rsLoRA" else ALPHA / RANK
    found = load_adapter(folder, NET)
    want = ours(changed(arrays, scale))
    assert_trees_close(found.merged(NET.params), want, rtol=1e-5, atol=1e-5)
    assert tree.count(found.stored) == sum(x.size for x in arrays.values()) + RANK * 5  # A of k, v
    stored, state = jax.jit(found.weights.init)(NET.params, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, stored, found.stored)
    for path, leaf in {**state.base, **state.frozen}.items():
        np.testing.assert_array_equal(leaf, tree.leaves(NET.params)[path])

    save_adapter(tmp_path / "b", found, NET)
    again = open_source(tmp_path / "b" / "adapter_model.safetensors").arrays
    assert set(again) == set(arrays)
    for name, x in arrays.items():
        assert again[name].shape == x.shape and again[name].read().tobytes() == x.tobytes(), name


def begun(adapter: Adapter, rules, net: Mapped = NET) -> Adaptation:
    """An adaptation whose factors are no longer fresh."""
    stored, _ = jax.jit(lora(adapter, rules).init)(net.params, jax.random.key(0))
    stored = jax.tree.map(
        lambda x: jnp.asarray(x + np.cos(np.arange(x.size, dtype="f")).reshape(x.shape)), stored
    )
    return Adaptation(adapter, rules, stored)


@pytest.mark.parametrize("make", [Adapter, dora])
def test_parts_of_a_fused_kernel_are_written_side_by_side(make, tmp_path):
    rules = [("k/kernel", make(2, alpha=3)), ("v/kernel", make(1, alpha=2)), (".*", None)]
    adaptation = begun(make(2), rules)
    save_adapter(tmp_path, adaptation, NET)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["target_modules"]) == (3, ["kv"])
    want = adaptation.merged(NET.params)
    whole = merge_adapter(tmp_path, fused())["kv"]["kernel"]
    for name, part in zip("kv", np.split(np.asarray(whole), [4], axis=1), strict=True):
        np.testing.assert_allclose(part, want[name]["kernel"], rtol=1e-5, atol=1e-6)


def fused() -> Mapped:
    """The same network with the fused kernel in one leaf."""
    one_leaf = move("kv.weight", "kv/kernel", Transpose())
    name_map = NameMap(tuple(one_leaf if "kv.weight" in m.theirs else m for m in MAP.moves))
    return Mapped(ours(BASE, name_map), name_map)


def test_half_a_fused_kernel_may_be_adapted_but_not_by_dora(tmp_path):
    rules = [("k/kernel", True), (".*", None)]
    with pytest.raises(ValueError, match=r"some outputs of 'kv\.weight' have no length"):
        save_adapter(tmp_path, begun(dora(2), rules), NET)
    adaptation = begun(Adapter(2), rules)
    save_adapter(tmp_path, adaptation, NET)
    found = merge_adapter(tmp_path, NET)
    np.testing.assert_array_equal(found["v"]["kernel"], NET.params["v"]["kernel"])
    want = adaptation.merged(NET.params)["k"]["kernel"]
    np.testing.assert_allclose(found["k"]["kernel"], want, rtol=1e-6)


def test_ranks_and_scales_of_each_kernel_become_patterns_and_return(tmp_path):
    rules = [
        ("q/kernel", Adapter(1, alpha=5)),
        ("head/kernel", Adapter(3, alpha=2, scaling="rank_stabilized")),
        ("conv/kernel", True),
        (".*", None),
    ]
    one = begun(Adapter(2, alpha=7), rules)
    save_adapter(tmp_path, one, NET)
    two = load_adapter(tmp_path, NET)
    scales = {path: x.scale for path, x in two.adapters(tree.paths(NET.params)).items()}
    assert scales == pytest.approx({"q/kernel": 5, "conv/kernel": 3.5, "head/kernel": 2 / 3**0.5})
    jax.tree.map(np.testing.assert_array_equal, two.stored, one.stored)


def test_modules_trained_whole_come_and_go_with_all_their_arrays(tmp_path):
    arrays = factors("q") | {
        "base_model.model.head.weight": drawn(5, 6),
        "base_model.model.head.bias": drawn(5),
    }
    folder = saved(tmp_path / "a", arrays, modules_to_save=["head"], target_modules="q")
    found = load_adapter(folder, NET)
    assert tree.paths(found.stored.params) == ["head/bias", "head/kernel"]
    seen = found.merged(NET.params)["head"]
    np.testing.assert_array_equal(seen["kernel"], arrays["base_model.model.head.weight"].T)

    rules = [("q/kernel", True), ("head/kernel", "train"), (".*", None)]
    save_adapter(tmp_path / "b", begun(Adapter(2), rules), NET)
    written = open_source(tmp_path / "b" / "adapter_model.safetensors").arrays
    np.testing.assert_array_equal(written["base_model.model.head.bias"].read(), BASE["head.bias"])


def test_bfloat16_factors_keep_their_bits(tmp_path):
    arrays = {name: x.astype(ml_dtypes.bfloat16) for name, x in factors("q").items()}
    found = load_adapter(saved(tmp_path / "a", arrays), NET)
    assert {x.dtype.name for x in jax.tree.leaves(found.stored)} == {"bfloat16"}
    save_adapter(tmp_path / "b", found, NET)
    again = open_source(tmp_path / "b" / "adapter_model.safetensors").arrays
    assert all(again[name].read().tobytes() == x.tobytes() for name, x in arrays.items())


@pytest.mark.parametrize(("ours_has", "theirs_have"), [("", "bert."), ("model.", ""), ("a.", "a.")])
def test_a_prefix_more_or_less_is_seen(ours_has, theirs_have, tmp_path):
    arrays = {
        name.replace("base_model.model.", f"base_model.model.{theirs_have}"): x
        for module in ("q", "h.0.up", "h.1.up")
        for name, x in factors(module).items()
    }
    net = Mapped(NET.params, prefixed(MAP, ours_has))
    found = load_adapter(saved(tmp_path, arrays), net)
    assert set(found.adapters(tree.paths(NET.params))) == {"q/kernel", "up/kernel"}


def test_arrays_may_be_left_out_by_name(tmp_path):
    arrays = factors("q") | {"base_model.model.score.weight": drawn(2, 6)}
    folder = saved(tmp_path, arrays, modules_to_save=["score"])
    with pytest.raises(ValueError, match=r"no array \['score\.weight'\] .*ignore="):
        load_adapter(folder, NET)
    assert load_adapter(folder, NET, ignore=[r"score\..*"]).merged(NET.params)
    with pytest.raises(ValueError, match=r"ignore: 'sore\.\*' matches no array"):
        load_adapter(folder, NET, ignore=["sore.*"])


@pytest.mark.parametrize(
    "asked",
    [
        {"peft_type": "IA3"},
        {"bias": "all"},
        {"layer_replication": [[0, 4], [2, 5]]},
        {"loftq_config": {"loftq_bits": 4}},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"lora_bias": True},
        {"use_qalora": True},
        {"trainable_token_indices": [3]},
        {"target_parameters": ["experts.up"]},
        {"alora_invocation_tokens": [1]},
        {"ensure_weight_tying": True},
        {"a_thing_of_tomorrow": "yes"},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_what_is_not_done_is_refused_by_name_and_value(asked, tmp_path):
    folder = saved(tmp_path, factors("q"), **asked)
    (name, value), *_ = asked.items()
    with pytest.raises(ValueError, match="which load_adapter does not do") as error:
        load_adapter(folder, NET)
    assert f"{name}={value!r}" in str(error.value)


def test_what_is_asked_for_in_vain_is_no_matter(tmp_path):
    nothing = {"layer_replication": None, "loftq_config": {}, "a_thing_of_tomorrow": False}
    start = {"init_lora_weights": "gaussian", "megatron_core": "megatron.core"}
    assert load_adapter(saved(tmp_path, factors("q"), **nothing, **start), NET)


def without(name: str) -> dict[str, np.ndarray]:
    arrays = factors("q")
    del arrays[f"base_model.model.q.{name}"]
    return arrays


@pytest.mark.parametrize(
    ("arrays", "config", "message"),
    [
        (factors("q", 3), {}, r"module 'q'.*\(6, 3\).*\(6, 2\).* are wanted"),
        (without("lora_B.weight"), {}, r"module 'q' has the factors \['A'\], \['A', 'B'\]"),
        (factors("q"), {"use_dora": True}, "'magnitude_vector'"),
        (factors("q", magnitude=True), {}, r"\['A', 'B'\] are wanted"),
        (factors("h.0.up"), {}, r"leaf 'up/kernel' joins .*'h\.1\.up\.weight' has no factors"),
        (
            factors("h.0.up") | factors("h.1.up"),
            {"alpha_pattern": {"h.0.up": 9}},
            r"leaf 'up/kernel' joins .*, whose adapters differ",
        ),
        (factors("q"), {"target_modules": ["k"]}, "'q' has factors, but target_modules"),
        (factors("q"), {"r": 0}, "rank must be at least 1"),
        (factors("q"), {"lora_alpha": "many"}, "'many' is no number"),
        (
            {"base_model.model.q.lora_B.bias": drawn(8), **factors("q")},
            {},
            r"'q\.lora_B\.bias' is no factor",
        ),
        (
            {"base_model.model.head.weight": drawn(5, 6), **factors("q")},
            {},
            r"'head\.weight' is not that of the network, and modules_to_save",
        ),
        (
            {"base_model.model.head.weight": drawn(4, 6), **factors("q")},
            {"modules_to_save": ["head"]},
            r"leaf 'head/kernel' is \(6, 4\)",
        ),
        ({}, {}, "it has no factors"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(arrays, config, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_adapter(saved(tmp_path, arrays, **config), NET)


def test_a_base_that_peft_repeats_is_well_if_it_is_ours(tmp_path):
    arrays = factors("emb") | {"base_model.model.emb.base_layer.weight": BASE["emb.weight"]}
    found = load_adapter(saved(tmp_path, arrays), NET)
    assert not tree.leaves(found.stored.params)


def tied() -> Mapped:
    moves = tuple(one for one in MAP.moves if "head" not in one.theirs[0])
    name_map = NameMap(moves, ties={"head.weight": "emb.weight"})
    return Mapped(ours(BASE, name_map), name_map)


@pytest.mark.parametrize("module", ["emb", "head"])
def test_one_of_two_tied_arrays_cannot_change_alone(module, tmp_path):
    folder = saved(tmp_path, factors(module), target_modules=["emb", "head"])
    with pytest.raises(ValueError, match=rf"'{module}' is one of two tied arrays"):
        load_adapter(folder, tied())


@pytest.mark.parametrize(
    ("net", "rules", "message"),
    [
        (tied(), [("embed/.*", True), (".*", None)], r"'emb\.weight' is tied to another"),
        (
            tied(),
            [("q/.*", True), ("embed/.*", "train"), (".*", None)],
            r"'emb\.weight' is tied to another",
        ),
        (
            NET,
            [("head/kernel", True), ("head/bias", "train"), (".*", None)],
            "module that is adapted",
        ),
        (
            NET,
            [("q/.*", True), ("head/kernel", dora(1)), (".*", None)],
            "some modules have lengths",
        ),
        (
            NET,
            [("q/.*", True), ("head/kernel", Adapter(1, in_axis=1, out_axis=0)), (".*", None)],
            r"some modules have kernels as \(in, out\)",
        ),
        (
            NET,
            [("o/kernel", Adapter(1, out_axis=1, in_axis=2)), (".*", None)],
            r"leaf 'o/kernel': the adapter joins other axes",
        ),
        (
            NET,
            [("embed/embedding", Adapter(1, in_axis=1, out_axis=0)), (".*", None)],
            r"leaf 'embed/embedding' is a table",
        ),
        (
            NET,
            [("k/kernel", True), ("v/kernel", Adapter(1, scaling="rank_stabilized")), (".*", None)],
            "have unlike adapters",
        ),
    ],
)
def test_what_peft_cannot_say_is_refused(net, rules, message, tmp_path):
    adaptation = begun(Adapter(2), rules, net)
    with pytest.raises(ValueError, match=message):
        save_adapter(tmp_path, adaptation, net)
    assert not list(tmp_path.iterdir())


def test_a_network_with_statistics_is_adapted_but_these_are_not_trained(tmp_path):
    name_map = NameMap(
        (
            move("q.weight", "params/q/kernel", Transpose()),
            move("norm.weight", "params/norm/scale"),
            move("norm.running_mean", "model_state/norm/mean"),
        )
    )
    params = {"q": {"kernel": BASE["q.weight"].T}, "norm": {"scale": BASE["norm.weight"]}}
    net = Mapped(params, name_map, {"norm": {"mean": np.zeros(6, np.float32)}})
    found = load_adapter(saved(tmp_path / "a", factors("q")), net)
    assert tree.paths(found.stored) == ["q/kernel/a", "q/kernel/b"]
    save_adapter(tmp_path / "b", found, net)
    arrays = factors("q") | {
        f"base_model.model.norm.{name}": drawn(6) for name in ("weight", "running_mean")
    }
    with pytest.raises(ValueError, match="'model_state/norm/mean' is a statistic"):
        load_adapter(saved(tmp_path / "a", arrays, modules_to_save=["norm"]), net)
    rules = [("q/kernel", True), ("norm/scale", "train")]
    with pytest.raises(ValueError, match=r"'norm\.running_mean' is a statistic"):
        save_adapter(tmp_path / "c", begun(Adapter(2), rules, net), net)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"adapter_config\.json"):
        load_adapter(tmp_path, NET)
    (saved(tmp_path, factors("q")) / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"adapter_model\.safetensors"):
        load_adapter(tmp_path, NET)
