"""Weights that others trained: in, out, and running."""

from wlab.pretrained import maps as maps
from wlab.pretrained import text as text
from wlab.pretrained.export import export as export
from wlab.pretrained.loading import Loaded as Loaded
from wlab.pretrained.loading import load as load
from wlab.pretrained.name_map import Move as Move
from wlab.pretrained.name_map import NameMap as NameMap
from wlab.pretrained.name_map import for_layers as for_layers
from wlab.pretrained.name_map import move as move
from wlab.pretrained.name_map import prefixed as prefixed
from wlab.pretrained.named import fetch as fetch
from wlab.pretrained.named import network as network
from wlab.pretrained.network import Network as Network
from wlab.pretrained.networks import from_gguf as from_gguf
from wlab.pretrained.networks import from_hub as from_hub
from wlab.pretrained.networks import from_llama2c as from_llama2c
from wlab.pretrained.plan import Plan as Plan
from wlab.pretrained.plan import plan as plan
from wlab.pretrained.sentences import sentence_vectors as sentence_vectors
from wlab.pretrained.sources import SOURCES as SOURCES
