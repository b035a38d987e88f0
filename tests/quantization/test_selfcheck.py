"""The check of the compiler runs here, and sees what is wrong."""

import jax.numpy as jnp
import numpy as np
import pytest

from wlab.quantization.execution import selfcheck


def test_this_backend_computes_what_is_used_here():
    assert set(selfcheck.verify_backend()) <= {"cast", "nibbles"}


def test_a_wrong_answer_is_seen():
    x = np.eye(3, dtype=np.float32)
    assert selfcheck.is_right((jnp.sin, np.sin(x.astype(np.float64)), (x,)))
    assert not selfcheck.is_right((jnp.sin, np.sin(x.astype(np.float64)) * 1.01, (x,)))


def test_the_error_names_the_flag(monkeypatch):
    wrong = {"the product of two": (jnp.cos, np.full(2, 3.0), (np.ones(2, np.float32),))}
    monkeypatch.setattr(selfcheck, "used_forms", lambda: wrong)
    with pytest.raises(RuntimeError, match=r"product of two wrongly.*ynn_fusion_type="):
        selfcheck.verify_backend()
