"""The embedded digits, and other sets where they are cached already."""

import logging

import numpy as np
import pytest

from wlab import data
from wlab.data import client


def cached(name: str) -> data.Dataset:
    skip_uncached(name)
    return data.load(name)


def skip_uncached(name: str) -> None:
    if not (data.cache_folder() / name).exists():
        pytest.skip(f"{name} is not cached: run `wlab data fetch {name}` to test its files")


def test_digits_are_the_1797_of_the_uci_file():
    digits = data.load("digits")
    image = np.concatenate([digits.train["image"], digits.test["image"]])
    label = np.concatenate([digits.train["label"], digits.test["label"]])
    assert image.reshape(-1, 64).shape == (1797, 64)
    assert (image.min(), image.max()) == (0, digits.peak)
    # As in the data's own description.
    np.testing.assert_array_equal(
        np.bincount(label), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    )
    np.testing.assert_allclose(image.mean(), 4.884164579855314, rtol=1e-12)


def test_the_split_of_the_digits_is_fixed_and_shares_no_scan():
    digits = data.load("digits")
    assert (len(digits.train["label"]), len(digits.test["label"])) == (1438, 359)
    assert np.bincount(digits.test["label"]).min() >= 20
    train, test = ({scan.tobytes() for scan in s["image"]} for s in (digits.train, digits.test))
    assert not train & test


def test_mnist_has_its_published_moments_and_counts():
    mnist = cached("mnist")
    image = mnist.train["image"]
    assert (image.shape, mnist.test["image"].shape) == ((60_000, 28, 28), (10_000, 28, 28))
    assert round(image.mean() / 255, 4) == 0.1307
    assert round(float(image.std(dtype=np.float32)) / 255, 4) == 0.3081
    np.testing.assert_array_equal(
        np.bincount(mnist.train["label"]),
        [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    )
    np.testing.assert_array_equal(
        np.bincount(mnist.test["label"]), [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    )


@pytest.mark.long
def test_cifar10_has_its_published_moments_and_counts():
    cifar10 = cached("cifar10")
    image = cifar10.train["image"]
    assert (image.shape, cifar10.test["image"].shape) == ((50_000, 32, 32, 3), (10_000, 32, 32, 3))
    np.testing.assert_allclose(image.mean((0, 1, 2)) / 255, [0.4914, 0.4822, 0.4465], atol=5e-5)
    np.testing.assert_array_equal(np.bincount(cifar10.train["label"]), [5000] * 10)
    np.testing.assert_array_equal(np.bincount(cifar10.test["label"]), [1000] * 10)


def test_newsgroups_have_their_published_counts_and_plain_words():
    skip_uncached("20newsgroups")
    letters = data.newsgroups()
    assert len(letters.names) == 20
    # Cardoso-Cachopo 2007, "Improving methods for single-label text categorization".
    assert (len(letters.train.text), len(letters.test.text)) == (11_293, 7_528)
    counts = [np.bincount(part.label, minlength=20) for part in (letters.train, letters.test)]
    for name, wanted in {
        "alt.atheism": (480, 319),
        "rec.sport.hockey": (600, 399),
        "talk.religion.misc": (377, 251),
    }.items():
        assert tuple(int(count[letters.names.index(name)]) for count in counts) == wanted
    assert letters.train.text[0].startswith("alt atheism faq atheist resources archive name")


def test_digits_stand_in_when_no_client_can_fetch_and_the_log_says_so(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(client.importlib.util, "find_spec", lambda name: None)
    with caplog.at_level(logging.WARNING):
        loaded = data.load_or_digits("mnist", cache=tmp_path)
    assert loaded.name == "digits"
    assert "embedded 8×8 digits instead of mnist" in caplog.text


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"no image dataset 'imagenet'; there are digits, mnist"):
        data.load("imagenet")
