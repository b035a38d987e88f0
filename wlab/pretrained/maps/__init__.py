"""Name maps of network families: functions of their sizes."""

from wlab.pretrained.maps.albert import albert as albert
from wlab.pretrained.maps.alexnet import alexnet as alexnet
from wlab.pretrained.maps.alexnet import alexnet_lpips as alexnet_lpips
from wlab.pretrained.maps.bert import bert as bert
from wlab.pretrained.maps.clip import clip as clip
from wlab.pretrained.maps.gpt2 import gpt2 as gpt2
from wlab.pretrained.maps.llama import llama2c as llama2c
from wlab.pretrained.maps.llama import llama_gguf as llama_gguf
from wlab.pretrained.maps.llama import llama_hub as llama_hub
from wlab.pretrained.maps.lstm import lstm_torch as lstm_torch
from wlab.pretrained.maps.mobilenet import mobilenet_v2 as mobilenet_v2
from wlab.pretrained.maps.mobilenet import mobilenet_v2_timm as mobilenet_v2_timm
from wlab.pretrained.maps.resnet import resnet50_keras as resnet50_keras
from wlab.pretrained.maps.resnet import resnet_cifar as resnet_cifar
from wlab.pretrained.maps.t5 import t5 as t5
from wlab.pretrained.maps.vgg import vgg as vgg
from wlab.pretrained.maps.vgg import vgg_cifar as vgg_cifar
from wlab.pretrained.maps.vgg import vgg_lpips as vgg_lpips
from wlab.pretrained.maps.vgg import vgg_timm as vgg_timm
from wlab.pretrained.maps.vit import vit as vit
