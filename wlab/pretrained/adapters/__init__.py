"""Adapters as files: those of PEFT, and our own for any network."""

from wlab.pretrained.adapters.factors import load_factors as load_factors
from wlab.pretrained.adapters.factors import save_factors as save_factors
from wlab.pretrained.adapters.mapped import Mapped as Mapped
from wlab.pretrained.adapters.reading import load_adapter as load_adapter
from wlab.pretrained.adapters.reading import merge_adapter as merge_adapter
from wlab.pretrained.adapters.writing import save_adapter as save_adapter
