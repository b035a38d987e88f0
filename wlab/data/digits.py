"""The 8×8 digits: 1,797 scans, small enough to be part of the library.

Alpaydin & Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository, CC BY 4.0; in the form and order in which scikit-learn bundles them.
"""

from importlib import resources

import numpy as np

from wlab.data.arrays import Dataset, take


def digits() -> Dataset:
    """Loads the embedded digits, with pixels from 0 to 16; every fifth sample is for the test."""
    with (resources.files("wlab.data") / "digits.npz").open("rb") as file:
        stored = np.load(file)
        arrays = {"image": stored["image"], "label": stored["label"].astype(np.int32)}
    is_test = np.arange(len(arrays["label"])) % 5 == 4
    train, test = take(arrays, ~is_test), take(arrays, is_test)
    return Dataset(train, test, name="digits", classes=10, peak=16)
