"""Reference networks, each an `(init, apply)` pair of pure functions over a nested dict."""

from wlab.models.encoder import Encoded as Encoded
from wlab.models.encoder import EncoderConfig as EncoderConfig
from wlab.models.encoder import encoder as encoder
from wlab.models.generation import generate as generate
from wlab.models.generation import sample as sample
from wlab.models.lenet5 import lenet5 as lenet5
from wlab.models.llama import Cache as Cache
from wlab.models.llama import LlamaConfig as LlamaConfig
from wlab.models.llama import empty_cache as empty_cache
from wlab.models.llama import llama as llama
from wlab.models.lstm import Carry as Carry
from wlab.models.lstm import LSTMConfig as LSTMConfig
from wlab.models.lstm import lstm as lstm
from wlab.models.mlp import lenet_300_100 as lenet_300_100
from wlab.models.mlp import mlp as mlp
from wlab.models.model import Model as Model
from wlab.models.model import StatefulModel as StatefulModel
from wlab.models.model import from_nnx as from_nnx
from wlab.models.model import stateful_from_nnx as stateful_from_nnx
from wlab.models.resnet import ResNetConfig as ResNetConfig
from wlab.models.resnet import resnet as resnet
from wlab.models.transformer import TransformerConfig as TransformerConfig
from wlab.models.transformer import transformer as transformer
