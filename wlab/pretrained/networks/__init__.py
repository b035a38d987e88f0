"""Networks from the files that people have: a function for each kind of file."""

from wlab.pretrained.networks.convnets import from_torchvision as from_torchvision
from wlab.pretrained.networks.gguf import from_gguf as from_gguf
from wlab.pretrained.networks.gguf import to_gguf as to_gguf
from wlab.pretrained.networks.hub import from_hub as from_hub
from wlab.pretrained.networks.hub_writing import save_hub as save_hub
from wlab.pretrained.networks.hub_writing import to_hub as to_hub
from wlab.pretrained.networks.llama2c import from_llama2c as from_llama2c
from wlab.pretrained.networks.lstm import from_torch_lstm as from_torch_lstm
from wlab.pretrained.networks.resnets import resnet50_imagenet as resnet50_imagenet
from wlab.pretrained.networks.resnets import resnet56_cifar10 as resnet56_cifar10
