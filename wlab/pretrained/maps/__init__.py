"""Name maps of network families: functions of their sizes."""

from wlab.pretrained.maps.bert import bert as bert
from wlab.pretrained.maps.clip import clip as clip
from wlab.pretrained.maps.llama import llama2c as llama2c
from wlab.pretrained.maps.llama import llama_gguf as llama_gguf
from wlab.pretrained.maps.llama import llama_hub as llama_hub
from wlab.pretrained.maps.lstm import lstm_torch as lstm_torch
from wlab.pretrained.maps.resnet import resnet50_keras as resnet50_keras
from wlab.pretrained.maps.resnet import resnet_cifar as resnet_cifar
from wlab.pretrained.maps.vit import vit as vit
