"""Networks without some units compute what the whole ones do with those weights zeroed by hand."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import models, pruning, tree
from wlab.checkpoint import Lazy, load_safetensors, save_safetensors
from wlab.models import EncoderConfig, LlamaConfig, ResNetConfig, T5Config, empty_cache
from wlab.pretrained import (
    NameMap,
    Network,
    Plan,
    from_hub,
    from_shrunk,
    save_hub,
    save_shrunk,
    shrunk,
    units,
)

LLAMA = LlamaConfig(layers=2, width=24, heads=6, kv_heads=3, ffn=20, vocab=17, context=8)
BERT = EncoderConfig(layers=2, width=24, heads=6, ffn=20, vocab=17, context=8)
RESNET = ResNetConfig((1, 1), (8, 16), classes=10)
TOKENS = jax.random.randint(jax.random.key(0), (2, 8), 0, 17)
IMAGES = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))


def some(leaf: jax.Array, i: int) -> jax.Array:
    """Noise that no norm is one of and no bias zero."""
    return 0.5 + jnp.abs(jax.random.normal(jax.random.key(i), leaf.shape, leaf.dtype)) / 4


def drawn(config) -> Network:
    make = {LlamaConfig: models.llama, EncoderConfig: models.encoder, ResNetConfig: models.resnet}
    model = make[type(config)](config)
    begun = model.init(jax.random.key(0))
    params, state = begun if config is RESNET else (begun, ())
    vectors = [(n, x) for n, x in tree.leaves(params).items() if x.ndim == 1]
    params = tree.replace(params, {n: some(x, i) for i, (n, x) in enumerate(vectors)})
    state = jax.tree.map(lambda x: some(x, 7), state)
    prepare = {"prepare": lambda images: images / np.float32(255), "image_size": 8}
    more = prepare if config is RESNET else {}
    return Network(model, config, params, NameMap(()), Plan(()), model_state=state, **more)


def zeroed(params, places):
    """The leaves with zeros at some indices."""
    found = tree.leaves(params)
    return tree.replace(params, {n: found[n].at[i].set(0) for n, i in places.items()})


def close(found, wanted):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)


def all_but(size: int, *gone: int) -> np.ndarray:
    return ~np.isin(np.arange(size), gone)


HEADS = {f"block_{i}/attn/q/kernel:1/3": all_but(3, 1) for i in range(2)}
UNITS = {f"block_{i}/gate/kernel:1": all_but(20, 2, 5, 19 - i) for i in range(2)}


def test_a_decoder_without_heads_and_hidden_units_is_one_of_smaller_sizes():
    network, places = drawn(LLAMA), {}
    for i in range(2):
        gone, queries = jnp.array([2, 5, 19 - i]), jnp.arange(8, 16)  # of the second pair of heads
        places[f"block_{i}/attn/o/kernel"] = (queries,)
        places[f"block_{i}/down/kernel"] = (gone,)
    small = shrunk(network, HEADS | UNITS)
    assert small.config == replace(LLAMA, heads=4, kv_heads=2, ffn=17, head_size=4)
    queries = {f"block_{i}/attn/q/kernel:1" for i in range(2)}
    assert units(network).groups.keys() == HEADS.keys() | UNITS.keys() | queries
    wanted = network.model.apply(zeroed(network.params, places), TOKENS)
    close(small.model.apply(small.params, TOKENS), wanted)
    cache, logits = empty_cache(small.config, 2, length=8), []
    for t in range(8):
        found, cache = small.model.apply(small.params, TOKENS[:, t : t + 1], cache=cache)
        logits.append(found)
    close(jnp.concatenate(logits, 1), wanted)


def test_queries_that_share_a_head_may_go_alone():
    network, places = drawn(LLAMA), {}
    keep = {f"block_{i}/attn/q/kernel:1": all_but(2, i) for i in range(2)}
    for i in range(2):
        gone = jnp.arange(24).reshape(3, 2, 4)[:, i].ravel()
        places[f"block_{i}/attn/o/kernel"] = (gone,)
    small = shrunk(network, keep)
    assert small.config == replace(LLAMA, heads=3, kv_heads=3, head_size=4)
    wanted = network.model.apply(zeroed(network.params, places), TOKENS)
    close(small.model.apply(small.params, TOKENS), wanted)


def test_a_smaller_decoder_is_a_folder_of_the_hub(tmp_path):
    small = shrunk(drawn(LLAMA), HEADS | UNITS)
    save_hub(tmp_path, small)
    back = from_hub(tmp_path)
    assert back.config == small.config
    jax.tree.map(np.testing.assert_array_equal, back.params, small.params)


def test_an_encoder_keeps_its_masks():
    network, mask = drawn(BERT), jnp.array([[True] * 8, [True] * 5 + [False] * 3])
    places = {"block_0/attn/o/kernel": (jnp.arange(4, 8),), "block_1/ffn/down/kernel": (3,)}
    small = shrunk(
        network,
        {"block_0/attn/q/kernel:1/2": all_but(6, 1), "block_1/ffn/up/kernel:1": all_but(20, 3)},
    )
    assert tree.count(small.params) == tree.count(network.params) - 4 * (4 * 24 + 3) - 2 * 24 - 1
    wanted = network.model.apply(zeroed(network.params, places), TOKENS, mask=mask)
    close(small.model.apply(small.params, TOKENS, mask=mask), wanted)
    alone = jax.jit(small.model.apply)(small.params, TOKENS[1:, :5])
    close(alone.states, wanted.states[1:, :5])


KEEP = {
    "params/block_0_0/branch/conv_1/kernel:3": all_but(8, 3),
    "params/block_1_0/branch/conv_1/kernel:3": all_but(16, 0, 9),
}
GONE = {"params/block_0_0/branch/": jnp.array([3]), "params/block_1_0/branch/": jnp.array([0, 9])}


@pytest.mark.parametrize("train", [False, True])
def test_a_network_with_statistics_is_used_and_trained_on(train):
    network = drawn(RESNET)
    places = {
        f"{path.removeprefix('params/')}norm_1/{name}": (gone,)
        for path, gone in GONE.items()
        for name in ("scale", "bias")
    }
    less = zeroed(network.params, places)
    small = shrunk(network, KEEP)
    wanted, state = network.model.apply(less, IMAGES, network.model_state, train=train)
    found, new = small.model.apply(small.params, IMAGES, small.model_state, train=train)
    close(found, wanted)
    flat = tree.leaves(state)
    for path, gone in GONE.items():
        name = path.removeprefix("params/")
        for kind in ("mean", "var"):
            at = f"{name}norm_1/{kind}"
            flat[at] = jnp.delete(flat[at], gone)
    close(tree.leaves(new), flat)
    begun = jax.eval_shape(small.model.init, jax.random.key(1))
    assert jax.tree.map(jnp.shape, begun) == jax.tree.map(
        jnp.shape, (small.params, small.model_state)
    )


@pytest.mark.parametrize("config", [LLAMA, RESNET])
def test_a_file_gives_the_same_network_back(config, tmp_path):
    network = drawn(config)
    keep = HEADS | UNITS if config is LLAMA else KEEP
    small = shrunk(network, keep)
    save_shrunk(tmp_path / "s.safetensors", small, keep, of=tmp_path / "nowhere")
    lazy = jax.tree.map(
        lambda x: Lazy(x.shape, x.dtype.name, x.nbytes, lambda: pytest.fail("read")),
        (network.params, network.model_state),
    )
    whole = replace(network, params=lazy[0], model_state=lazy[1])
    back = from_shrunk(tmp_path / "s.safetensors", whole=whole)
    assert back.config == small.config
    jax.tree.map(np.testing.assert_array_equal, back.params, small.params)
    jax.tree.map(np.testing.assert_array_equal, back.model_state, small.model_state)
    inputs = (TOKENS,) if config is LLAMA else (IMAGES, small.model_state)
    close(back.model.apply(back.params, *inputs), small.model.apply(small.params, *inputs))
    with pytest.raises(FileNotFoundError, match=r"was made of .*/nowhere, .* whole=from_hub"):
        from_shrunk(tmp_path / "s.safetensors")
    with pytest.raises(ValueError, match=r"'.*' is a group of .* units, in the network it has"):
        from_shrunk(tmp_path / "s.safetensors", whole=drawn(BERT))


def test_files_that_say_too_little_or_fit_nothing_are_refused(tmp_path):
    path, network = tmp_path / "s.safetensors", drawn(RESNET)
    small = shrunk(network, KEEP)
    save_safetensors(path, small.params)
    with pytest.raises(ValueError, match=r"a file of arrays, and what runs them is not known"):
        from_shrunk(path)
    save_shrunk(path, small, {}, of="x")
    with pytest.raises(ValueError, match=r"mean"):
        from_shrunk(path, whole=network)
    assert load_safetensors(path)["params"]["head"]["bias"].shape == (10,)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("{", "what it was made of is damaged"),
        ('{"network": "x"}', "what it was made of is damaged: 'keep'"),
        ('{"network": "x", "keep": []}', "what it was made of is damaged"),
        (f'{{"network": "x", "keep": {{"{next(iter(KEEP))}": "0g"}}}}', "stay is damaged"),
        ('{"network": "s.safetensors", "keep": {}}', "cannot be made of itself"),
    ],
)
def test_a_damaged_recipe_is_refused(recipe, message, tmp_path):
    path, network = tmp_path / "s.safetensors", drawn(RESNET)
    save_safetensors(path, network.params, metadata={"shrunk": recipe})
    with pytest.raises(ValueError, match=message):
        from_shrunk(path, whole=None if "itself" in message else network)


def test_no_file_is_written_over_what_it_is_made_of(tmp_path):
    network = drawn(RESNET)
    one, two = (tmp_path / f"{name}.safetensors" for name in ("one", "two"))
    small = shrunk(network, KEEP)
    save_shrunk(one, small, KEEP, of="resnet56-cifar10")
    save_shrunk(two, small, {}, of=one)
    for path, of in ((one, one), (one, two)):
        with pytest.raises(ValueError, match=r"one.safetensors cannot be made of itself"):
            save_shrunk(path, small, {}, of=of)
    save_shrunk(two, small, {}, of=one)


def test_what_the_sizes_of_a_decoder_cannot_say_is_refused():
    network = drawn(LLAMA)
    uneven = UNITS | {"block_1/gate/kernel:1": all_but(20, 1)}
    with pytest.raises(ValueError, match=r"same ffn; .* would keep 17, .* would keep 19"):
        shrunk(network, uneven)
    said = r"'embed/embedding:1' is no group; there are block_0"
    with pytest.raises(ValueError, match=said):
        shrunk(network, {"embed/embedding:1": all_but(24, 0)})


def test_networks_that_read_something_else_are_named():
    network = drawn(LLAMA)
    with pytest.raises(ValueError, match=r"what a SimpleNamespace reads is neither images"):
        units(replace(network, config=SimpleNamespace()))
    with pytest.raises(ValueError, match=r"what a T5Config reads is neither images"):
        units(replace(network, config=T5Config(2, 24, 6, 4, 20, 17)))


def test_the_better_units_of_a_pretrained_network_are_found_like_any_others():
    network = drawn(LLAMA)
    found = units(network)
    scores = pruning.unit_scores(found, jax.tree.map(jnp.square, network.params))
    small = shrunk(network, pruning.best_units(found, scores, 0.5, round_to=1))
    assert (small.config.ffn, small.config.heads, small.config.kv_heads) == (10, 2, 2)
