"""Learning-rate schedules people ask for by name, as optax schedules: step -> rate."""

import optax


def warmup_cosine(
    peak: float, *, warmup: int, steps: int, end_fraction: float = 0.0
) -> optax.Schedule:
    """Rises linearly for `warmup` steps, then falls on half a cosine to `end_fraction * peak`.

    Raises:
        ValueError: If the warm-up does not fit into `steps`.
    """
    _check(warmup, steps)
    return optax.warmup_cosine_decay_schedule(
        0.0, peak, warmup, steps, end_value=end_fraction * peak
    )


def wsd(
    peak: float, *, warmup: int, decay: int, steps: int, end_fraction: float = 0.0
) -> optax.Schedule:
    """Warm-up, stable, decay: a linear rise, a plateau, a linear fall over the last `decay` steps.

    Reference: Hu et al. 2024 (arXiv:2404.06395), section 4.

    Raises:
        ValueError: If warm-up and decay do not fit into `steps`.
    """
    _check(warmup + decay, steps)
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, peak, warmup),
            optax.constant_schedule(peak),
            optax.linear_schedule(peak, end_fraction * peak, decay),
        ],
        [warmup, steps - decay],
    )


def _check(needed: int, steps: int) -> None:
    if not 0 <= needed <= steps:
        raise ValueError(f"Warm-up and decay take {needed} steps of {steps}: shorten them.")
