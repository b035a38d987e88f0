"""Variance from fans: the family of Glorot, He and LeCun, and its correction for depth."""

import math
from typing import Any, Unpack

from jaxtyping import Array

from wlab.initializers.distributions import normal, truncated_normal, uniform
from wlab.initializers.fans import Axes, fans
from wlab.initializers.initializer import Initializer, Key, Scalar, check_positive, drawn

_MODES = {
    "fan_in": lambda fan_in, fan_out: fan_in,
    "fan_out": lambda fan_in, fan_out: fan_out,
    "fan_avg": lambda fan_in, fan_out: (fan_in + fan_out) / 2,
    "fan_geo_avg": lambda fan_in, fan_out: math.sqrt(fan_in * fan_out),
}
_DISTRIBUTIONS = {
    "normal": normal,
    "truncated_normal": truncated_normal,
    "uniform": lambda std: uniform(math.sqrt(3) * std),
}


def variance_scaling(
    gain: Scalar,
    mode: str,
    *,
    distribution: str = "normal",
    **axes: Unpack[Axes],
) -> Initializer:
    """Draws with variance gain² / fan, whatever the distribution.

    Args:
        gain: Factor of the standard deviation, see `wlab.initializers.gain`.
        mode: Which fan: `fan_in`, `fan_out`, their mean or their geometric mean.
        distribution: `normal`, `truncated_normal` (corrected) or `uniform`.
        axes: See `Axes`.

    Raises:
        ValueError: If `gain` is not positive or a name is not known; from the initializer,
            if the shape does not have the declared axes.
    """
    check_positive("variance_scaling: gain", gain)
    for name, known in ((mode, _MODES), (distribution, _DISTRIBUTIONS)):
        if name not in known:
            raise ValueError(f"variance_scaling: {name!r} is not one of {', '.join(known)}.")

    def draw(key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
        fan = max(1.0, _MODES[mode](*fans(shape, **axes)))
        return _DISTRIBUTIONS[distribution](gain / math.sqrt(fan))(key, shape, dtype)

    return drawn(draw)


def glorot_normal(*, gain: Scalar = 1.0, **axes: Unpack[Axes]) -> Initializer:
    """Draws from N(0, gain² · 2/(fan_in + fan_out)).

    Reference:
        Glorot & Bengio 2010, eq. 12.
    """
    return variance_scaling(gain, "fan_avg", **axes)


def glorot_uniform(*, gain: Scalar = 1.0, **axes: Unpack[Axes]) -> Initializer:
    """Draws from U(±gain · √(6/(fan_in + fan_out))).

    Reference:
        Glorot & Bengio 2010, eq. 16.
    """
    return variance_scaling(gain, "fan_avg", distribution="uniform", **axes)


def he_normal(*, gain: Scalar = 2**0.5, **axes: Unpack[Axes]) -> Initializer:
    """Draws from N(0, gain²/fan_in), where gain √2 is that of ReLU.

    Reference:
        He et al. 2015 (arXiv:1502.01852), eq. 10.
    """
    return variance_scaling(gain, "fan_in", **axes)


def he_uniform(*, gain: Scalar = 2**0.5, **axes: Unpack[Axes]) -> Initializer:
    """Draws from U(±gain · √(3/fan_in)), where gain √2 is that of ReLU.

    Reference:
        He et al. 2015 (arXiv:1502.01852), eq. 10.
    """
    return variance_scaling(gain, "fan_in", distribution="uniform", **axes)


def lecun_normal(*, gain: Scalar = 1.0, **axes: Unpack[Axes]) -> Initializer:
    """Draws from N(0, gain²/fan_in).

    Reference:
        LeCun et al. 1998, Efficient BackProp, §4.6.
    """
    return variance_scaling(gain, "fan_in", **axes)


def lecun_uniform(*, gain: Scalar = 1.0, **axes: Unpack[Axes]) -> Initializer:
    """Draws from U(±gain · √(3/fan_in)).

    Reference:
        LeCun et al. 1998, Efficient BackProp, §4.6.
    """
    return variance_scaling(gain, "fan_in", distribution="uniform", **axes)


def residual_scaled(initializer: Initializer, num_layers: int) -> Initializer:
    """Divides what `initializer` draws by √(2 · num_layers).

    For the last kernel of each residual branch of a transformer: two branches a layer add
    up to `2 · num_layers` terms, whose sum then keeps the variance of one.

    Raises:
        ValueError: If `num_layers < 1`.

    Reference:
        Radford et al. 2019 (GPT-2), §2.3.
    """
    if num_layers < 1:
        raise ValueError(f"residual_scaled: num_layers must be at least 1, got {num_layers}.")
    factor = 1 / math.sqrt(2 * num_layers)
    return drawn(lambda key, shape, dtype: factor * initializer(key, shape, dtype))
