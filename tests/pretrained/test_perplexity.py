"""How well decoders foretell texts: a closed form, NumPy's forward pass, a real network."""

import math

import numpy as np
import pytest
import real
import references
from test_llama_networks import CONFIG, HUB, config_json, expected, random_arrays

from wlab import data, pretrained
from wlab.checkpoint import save_safetensors
from wlab.models import Model
from wlab.pretrained import NameMap, Network, Plan, from_hub, perplexity

TEXT = np.random.default_rng(0).integers(0, CONFIG.vocab, 28)


def test_a_model_that_knows_nothing_is_as_perplexed_as_there_are_tokens():
    def apply(params, tokens):
        del params
        return np.zeros((*tokens.shape, CONFIG.vocab), np.float32)

    blank = Network(Model(lambda key: {}, apply), CONFIG, {}, NameMap(()), Plan(()))
    found = perplexity(blank, TEXT, context=5, batch=3)
    assert found.tokens == 25
    assert found.perplexity == pytest.approx(CONFIG.vocab)


def test_every_token_but_the_first_is_foretold_once_from_its_window(tmp_path):
    arrays = random_arrays(HUB, tied=True)
    save_safetensors(tmp_path / "model.safetensors", arrays)
    (tmp_path / "config.json").write_text(config_json())
    costs = []
    for start in range(0, 25, 5):
        logits = expected(arrays, HUB, tied=True, interleaved=False, tokens=TEXT[start : start + 5])
        chances = references.softmax(logits)
        costs += [-math.log(row[t]) for row, t in zip(chances, TEXT[start + 1 :], strict=False)]
    found = perplexity(from_hub(tmp_path), TEXT, context=5, batch=2)
    assert found.tokens == len(costs) == 25
    assert found.nats == pytest.approx(np.mean(costs), rel=1e-3)


def test_what_cannot_be_foretold_is_refused(tmp_path):
    save_safetensors(tmp_path / "model.safetensors", random_arrays(HUB, tied=True))
    (tmp_path / "config.json").write_text(config_json())
    network = from_hub(tmp_path)
    with pytest.raises(ValueError, match=r"in \[0, 17\), got 0 to 17"):
        perplexity(network, [0, 17], context=1)
    with pytest.raises(ValueError, match="too few for one window of 8"):
        perplexity(network, [1, 2, 3], context=8)


@pytest.mark.long
def test_smollm2_foretells_wikitext_as_measured_elsewhere():
    if not (data.cache_folder() / "wikitext-2").exists():
        pytest.skip("wikitext-2 is not cached: run `wlab data fetch wikitext-2`")
    network = real.network("smollm2-135m")
    tokens = network.tokenizer.encode(data.read_text("wikitext-2")["test"].decode())
    found = pretrained.perplexity(network, tokens[:5121], context=512)
    assert found.nats == pytest.approx(3.512, abs=1e-3)
