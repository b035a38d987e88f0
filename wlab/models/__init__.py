"""Reference networks, each an `(init, apply)` pair of pure functions over a nested dict."""

from wlab.models.encoder import Encoded as Encoded
from wlab.models.encoder import EncoderConfig as EncoderConfig
from wlab.models.encoder import encoder as encoder
from wlab.models.lenet5 import lenet5 as lenet5
from wlab.models.lstm import Carry as Carry
from wlab.models.lstm import LSTMConfig as LSTMConfig
from wlab.models.lstm import lstm as lstm
from wlab.models.mlp import lenet_300_100 as lenet_300_100
from wlab.models.mlp import mlp as mlp
from wlab.models.model import Model as Model
from wlab.models.model import from_nnx as from_nnx
from wlab.models.transformer import TransformerConfig as TransformerConfig
from wlab.models.transformer import transformer as transformer
