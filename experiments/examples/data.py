"""Reading data: a batch is a function of the step, so nothing needs to be saved to resume.

Run     python -m experiments.examples.data
"""

import numpy as np

from wlab import data


def main() -> None:
    """Reads the embedded digits, resumes, shares a batch among processes, and evaluates."""
    digits = data.load("digits")
    read = data.reader(digits.train, 32, seed=0)
    print("batch:", {name: (array.shape, array.dtype.name) for name, array in read(0).items()})

    resumed = data.reader(digits.train, 32, seed=0)
    print("resumed at step 1000:", np.array_equal(resumed(1000)["image"], read(1000)["image"]))

    halves = [
        data.reader(digits.train, 32, seed=0, process_index=i, process_count=2)(7)["label"]
        for i in range(2)
    ]
    print("two processes:", np.array_equal(np.concatenate(halves), read(7)["label"]))

    means = np.stack([digits.train["image"][digits.train["label"] == k].mean(0) for k in range(10)])
    correct = total = 0.0
    for batch in data.padded_batches(digits.test, 100):  # the last one is filled up, at weight 0
        distance = np.square(batch["image"][:, None] - means).sum((2, 3))
        correct += (batch["weight"] * (distance.argmin(1) == batch["label"])).sum()
        total += batch["weight"].sum()
    print(f"nearest class mean: {100 * correct / total:.1f} % of {total:.0f} test digits")


if __name__ == "__main__":
    main()
