"""`wlab embed`, `classify` and `generate` on real networks, where they have been fetched."""

import json

import numpy as np
import pytest

from wlab import data, pretrained
from wlab.cli.main import main


@pytest.fixture
def cached():
    def check(*names: str) -> None:
        for name in names:
            if not (data.cache_folder() / name).exists():
                pytest.skip(f"{name} is not cached: fetch it to test what `wlab` makes of it")

    return check


def run_json(capsys, *argv: str):
    assert main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_sentences_that_mean_alike_have_a_high_cosine(cached, capsys):
    cached("weights/minilm")
    texts = ["A man is playing a guitar.", "Someone plays music.", "The stock market fell today."]
    found = run_json(capsys, "embed", "minilm", *texts)
    cosines = np.array(found["cosines"])
    assert cosines[0, 1] > 0.5 > 0.1 > cosines[0, 2]
    np.testing.assert_allclose(
        np.array(found["vectors"]) @ np.array(found["vectors"]).T, cosines, atol=1e-4
    )


@pytest.mark.long
def test_photographs_get_their_classes(cached, capsys, tmp_path):
    cached("weights/resnet56-cifar10", "cifar10")
    image = pytest.importorskip("PIL.Image", reason="Pillow is an extra")
    test = data.load("cifar10").test
    for i in range(8):
        image.fromarray(test["image"][i]).save(tmp_path / f"{i}.png")
    files = [str(tmp_path / f"{i}.png") for i in range(8)]
    rows = run_json(capsys, "classify", "resnet56-cifar10", *files, "--top", "1")
    names = pretrained.network("resnet56-cifar10").labels
    right = [row["class"] == names[test["label"][i]] for i, row in enumerate(rows)]
    assert sum(right) >= 7


def test_a_network_without_eyes_or_words_is_named(cached, capsys, tmp_path):
    cached("weights/minilm", "weights/resnet56-cifar10")
    assert main(["classify", "minilm", str(tmp_path / "x.png")]) == 1
    assert "minilm reads no images" in capsys.readouterr().err
    assert main(["generate", "resnet56-cifar10", "hello"]) == 1
    assert "has no tokenizer" in capsys.readouterr().err


def test_text_goes_on_and_tells_its_speed(cached, capsys):
    cached("weights/stories15m")
    command = ["generate", "stories15m", "Once upon a time", "--steps", "4", "--temperature", "0"]
    found = run_json(capsys, *command)
    assert found["texts"] == ["Once upon a time, there was a"]
    assert found["tokens"] == 4
    assert found["tokens_per_s"] > 0
