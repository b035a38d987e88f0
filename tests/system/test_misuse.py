"""Errors that help those whose types are wrong: a process of its own, without checks of types."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PAIRS = 'rules are a list of (regex, value) in the order in which they are tried, as [(".*kernel"'
WANTED = {
    "rules, a mapping": f"TypeError: prune: {PAIRS}",
    "rules, one pair": f"TypeError: report: {PAIRS}",
    "rules of rigl": f"TypeError: rigl: {PAIRS}",
    "rules of magnitude": f"TypeError: magnitude: {PAIRS}",
    "score, not made": "TypeError: prune: the score is to be made first, as scores.random(key)",
    "allocation, a name": "TypeError: an allocation is a function, as pruning.globally; got 'erk'",
    "storage": "ValueError: masks are stored as ('bits', 'int8'), not as 'bit'",
    "decay, a number": "TypeError: decoupled: rules are a list of (regex, value)",
    "format, a name": "TypeError: array: 'int8' is not a Format, as quantization.int8() or",
    "format, not made": "TypeError: quantization: the rule for 'kernel': functools.partial(",
    "gptq, true": "TypeError: gptq: the rule for 'kernel': True is not a Format",
    "awq, true": "TypeError: awq: the rule for 'kernel': True is not a Format",
    "tie, alone": 'TypeError: tie: ties are a list, as [Tie("head/kernel"',
    "ties, pairs": 'TypeError: tie: ties are a list, as [Tie("head/kernel"',
    "loss, two arguments": "TypeError: loss_fn is called as loss_fn(params, model_state, batch, ",
    "loss, a number": "TypeError: loss_fn returns (loss_sum, (weight, model_state, metrics)), sums",
    "loss, metrics alone": "TypeError: loss_fn returns (loss_sum, (weight, model_state, metrics)),",
    "loss, as it has to be": "no error",
    "tx before transform": "TypeError: wlab's transform of weights comes first (wlab.identity() fo",
    "inputs, no tuple": "TypeError: synflow: inputs are a tuple, as (images,), whose items go",
}


@pytest.fixture(scope="module")
def heard() -> dict[str, str]:
    command = [sys.executable, str(Path(__file__).parent / "misuse.py")]
    return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


@pytest.mark.parametrize("tried", WANTED)
def test_what_is_wrong_and_what_would_be_right_is_said(heard, tried):
    assert heard[tried].startswith(WANTED[tried])


def test_all_that_is_tried_is_looked_at(heard):
    assert set(heard) == set(WANTED)
