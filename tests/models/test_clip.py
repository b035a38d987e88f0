"""CLIP: its totals, what a text hears, where its features stand, how towers are compared."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import tree
from wlab.models import CLIPConfig, Model, Tower, clip
from wlab.models.layers import zeros
from wlab.transform import Params

Draw = Callable[[Model], Params]

CONFIG = CLIPConfig(
    text=Tower(layers=1, width=12, heads=3, ffn=20),
    vision=Tower(layers=1, width=8, heads=2, ffn=12),
    features=6,
    vocab=17,
    context=7,
    image_size=8,
    patch=4,
    end=15,
)
MODEL = clip(CONFIG)
IMAGES = jnp.array(np.random.default_rng(1).normal(size=(3, 8, 8, 3)), jnp.float32)
TEXT = [14, 3, 1, 15, 0, 0]


@partial(jax.jit, static_argnames="end")
def read(params: Params, *texts: list[int], end: int | None = 15) -> jax.Array:
    model = clip(replace(CONFIG, end=end))
    return model.apply(params, jnp.array(texts), method="encode_text")


@jax.jit
def see(params: Params) -> jax.Array:
    return MODEL.apply(params, IMAGES, method="encode_image")


B32 = CLIPConfig(Tower(12, 512, 8), Tower(12, 768, 12), 512, 49_408, 77, 224, 32, 49_407)


@pytest.mark.parametrize(
    ("config", "count"), [(B32, 151_277_313), (replace(B32, patch=16), 149_620_737)]
)
def test_published_totals(config: CLIPConfig, count: int):
    assert tree.count(jax.eval_shape(clip(config).init, jax.random.key(0))) == count


def test_logits_are_the_scaled_cosines_of_the_features(drawn: Draw):
    params, tokens = drawn(MODEL), [TEXT, [14, 4, 1, 5, 9, 15]]
    images, texts = np.float64(see(params)), np.float64(read(params, *tokens))
    assert (images.shape, texts.shape) == ((3, 6), (2, 6))
    lengths = np.outer(np.linalg.norm(images, axis=1), np.linalg.norm(texts, axis=1))
    expected = np.exp(float(params["logit_scale"])) * (images @ texts.T) / lengths
    found = jax.jit(MODEL.apply)(params, IMAGES, jnp.array(tokens))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_training_starts_at_the_papers_temperature():
    scale = clip(CONFIG, kernel_init=zeros).init(jax.random.key(0))["logit_scale"]
    assert (scale.shape, float(scale)) == ((), pytest.approx(2.6592, abs=1e-4))


def test_a_text_hears_all_up_to_its_end_and_nothing_behind(drawn: Draw):
    texts = [TEXT, [14, 3, 1, 15, 9, 15]]
    texts += [[*TEXT[:at], 8, *TEXT[at + 1 :]] for at in range(3)]
    plain, behind, *before = read(drawn(MODEL), *texts)
    np.testing.assert_array_equal(behind, plain)
    for found in before:
        assert np.abs(found - plain).max() > 1e-3


def test_a_text_without_end_reads_as_nan(drawn: Draw):
    found = read(drawn(MODEL), [14, 3, 1, 4, 0, 0], TEXT)
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()


def test_without_an_end_token_the_first_of_the_highest_counts(drawn: Draw):
    params, texts = drawn(MODEL), [[14, 3, 15, 15, 0, 0], [14, 3, 15, 16, 0, 0]]
    found = read(params, *texts, end=None)
    for row, end in enumerate((15, 16)):
        np.testing.assert_allclose(
            found[row], read(params, *texts, end=end)[row], rtol=1e-5, atol=1e-6
        )


def test_a_mask_hides_tokens_of_the_text(drawn: Draw):
    params, texts = drawn(MODEL), jnp.array([TEXT, [*TEXT[:2], 9, *TEXT[3:]], TEXT])
    mask = jnp.array([[True, True, hears, True, False, False] for hears in (False, False, True)])
    hidden = jax.jit(partial(MODEL.apply, method="encode_text"))
    one, other, all_heard = hidden(params, texts, mask=mask)
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert np.abs(one - all_heard).max() > 1e-3


def test_the_towers_may_have_the_exact_gelu(drawn: Draw):
    params = drawn(MODEL)
    exact = clip(replace(CONFIG, vision=replace(CONFIG.vision, activation="gelu")))
    found = jax.jit(partial(exact.apply, method="encode_image"))(params, IMAGES)
    assert np.abs(found - see(params)).max() > 1e-3


def test_inputs_that_do_not_fit_are_refused(drawn: Draw):
    params = drawn(MODEL)
    with pytest.raises(ValueError, match="the model reads 8×8×3"):
        MODEL.apply(params, jnp.zeros((1, 12, 12, 3)), method="encode_image")
    with pytest.raises(ValueError, match="8 tokens, the model's context is 7"):
        MODEL.apply(params, jnp.zeros((1, 8), int), method="encode_text")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Tower(1, 12, 5), "width .12. must be a multiple of heads .5."),
        (lambda: replace(CONFIG, image_size=10), "image_size .10. must be a multiple of patch"),
        (lambda: replace(CONFIG, end=17), "end .17. must be one of the 17 tokens"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(make: Callable, said: str):
    with pytest.raises(ValueError, match=said):
        make()
