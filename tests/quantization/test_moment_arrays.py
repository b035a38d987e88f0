"""Arrays of moments in few bits: against NumPy, zeros, and what is read back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from moment_twin import read_back, spanning_decades, twin, write

from wlab.quantization import Format, fp8_e4m3, integer
from wlab.quantization.moment_arrays import dequantize_moment, quantize_moment
from wlab.quantization.moment_grids import Moment, dynamic, moment_parts

EIGHT, FOUR = moment_parts(8, block_size=16), moment_parts(4, block_size=16)
CASES = {
    "first of 8 bits": (EIGHT["mu"], {"bits": 8, "root": 4, "signed": True}),
    "second of 8 bits": (EIGHT["nu"], {"bits": 8, "root": 4, "signed": False}),
    "second of 4 bits": (FOUR["nu"], {"bits": 4, "root": 4, "signed": False}),
    "first of 4 bits": (FOUR["mu"], {"bits": 4, "root": 1, "values": dynamic(4, even=True).values}),
    "square root": (
        Moment(integer(8, symmetric=False, axis=-1, group_size=16), root=2),
        {"bits": 8, "root": 2, "signed": False},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_codes_and_what_they_stand_for_are_numpys(name):
    moment, how = CASES[name]
    x = spanning_decades((3, 40), signed=moment.signed)
    coded = write(x, moment)
    codes, scales, read = twin(x, block=16, **how)
    np.testing.assert_array_equal(coded.scale, scales)
    found = np.asarray(coded.codes)
    if how["bits"] == 4:
        found = np.stack([found & 15, found >> 4], axis=-1).reshape(3, 40)
    np.testing.assert_array_equal(found, codes)
    np.testing.assert_array_equal(read_back(coded, moment, x.shape), read)


@pytest.mark.parametrize("name", CASES)
def test_what_is_read_is_written_as_it_was(name):
    """Steps that change no moment, as those of an accumulation, do not wear it down."""
    moment, _ = CASES[name]
    x = spanning_decades((3, 40), signed=moment.signed, seed=1)
    coded = write(x, moment)
    again = write(read_back(coded, moment, x.shape), moment)
    np.testing.assert_array_equal(again.codes, coded.codes)
    np.testing.assert_array_equal(again.scale, coded.scale)


@pytest.mark.parametrize("name", CASES)
def test_zero_stays_zero_and_no_second_moment_becomes_zero(name):
    moment, _ = CASES[name]
    x = spanning_decades((3, 40), signed=moment.signed, seed=2)
    read = np.asarray(read_back(write(x, moment), moment, x.shape))
    assert (x == 0).any()
    assert not read[x == 0].any()
    if not moment.signed:
        assert (read[x > 0] > 0).all()
        # Half a step of the root, at the smallest code: 3/2 of what is read.
        assert (x[x > 0] / read[x > 0]).max() <= 1.5**moment.root * (1 + 1e-5)


def test_what_is_not_finite_is_not_hidden():
    moment = EIGHT["nu"]
    x = jnp.ones((1, 48)).at[0, 3].set(jnp.nan).at[0, 40].set(-1e-9)
    read = read_back(write(x, moment), moment, x.shape)
    nan = np.isnan(np.asarray(read)).reshape(3, 16)
    np.testing.assert_array_equal(nan.all(axis=1), [True, False, True])
    np.testing.assert_array_equal(nan.any(axis=1), [True, False, True])


def test_the_dynamic_codebook_is_the_published_one():
    values = np.asarray(dynamic(8).values)
    assert len(values) == 256 == len(dynamic(8, signed=False).values)
    # By hand: the largest are 0.1 + 0.9 (k + 1/2) / 64, the smallest 1e-6 · (0.1 + 0.45).
    np.testing.assert_allclose(values[:3], [-0.99296875, -0.97890625, -0.96484375], rtol=1e-6)
    np.testing.assert_allclose(values[126:130], [-5.5e-7, 0, 5.5e-7, 3.25e-6], rtol=1e-6)
    np.testing.assert_allclose(values[-2:], [0.99296875, 1], rtol=1e-6)
    # Decade e has 2^(6 - e) values on each side.
    per_decade = [np.sum((values > 10.0 ** -(e + 1)) & (values < 10.0**-e)) for e in range(7)]
    assert per_decade == [64, 32, 16, 8, 4, 2, 1]
    # Li, Chen, Zhu 2023, of 4 bits; its last middle on each side gives way to an end.
    listed = [0.0055, 0.0325, 0.0775, 0.2125, 0.4375, 0.6625, 0.8875]
    np.testing.assert_allclose(dynamic(4).values[8:], [*listed, 1], rtol=1e-6)
    np.testing.assert_allclose(dynamic(4, even=True).values[8:], [*listed[:-1], 1], rtol=1e-6)
    np.testing.assert_array_equal(
        dynamic(4, even=True).values, -np.asarray(dynamic(4, even=True).values)[::-1]
    )


def test_rounding_by_chance_has_the_root_for_its_mean():
    moment = Moment(integer(4, axis=-1, group_size=16))
    x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 16)), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 4000)

    def read(key):
        coded = quantize_moment(x, moment, key=key)
        return dequantize_moment(coded, moment, jax.ShapeDtypeStruct(x.shape, jnp.float32))

    drawn = np.asarray(jax.jit(jax.vmap(read))(keys))
    width = float(jnp.max(jnp.abs(x))) / 7
    np.testing.assert_allclose(drawn.mean(0), x, atol=5 * width / 2 / np.sqrt(4000))
    assert (np.abs(drawn - np.asarray(x)[None]) < width * 1.001).all()


def test_any_format_with_a_zero_will_do():
    moment = Moment(fp8_e4m3(axis=-1, group_size=16))
    x = jnp.asarray([[0.0, 1.0, -0.5, 448.0]])
    read = read_back(write(x, moment), moment, x.shape)
    np.testing.assert_allclose(read, x, rtol=1 / 16)
    assert moment.signed
    assert not Moment(Format(dynamic(8, signed=False), axis=-1, group_size=16)).signed
