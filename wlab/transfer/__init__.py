"""Transfer: pretrained weights frozen, adapted, begun from and tuned with care."""

from wlab.transfer.adaptation import Adaptation as Adaptation
from wlab.transfer.adaptation import continued as continued
from wlab.transfer.adapter import Adapter as Adapter
from wlab.transfer.adapter import dora as dora
from wlab.transfer.axes import Factors as Factors
from wlab.transfer.cached import features as features
from wlab.transfer.freezing import FreezeState as FreezeState
from wlab.transfer.freezing import freeze as freeze
from wlab.transfer.kernels import fresh_factors as fresh_factors
from wlab.transfer.kernels import merged_kernel as merged_kernel
from wlab.transfer.kernels import unmerged_kernel as unmerged_kernel
from wlab.transfer.kernels import with_magnitude as with_magnitude
from wlab.transfer.lora import Adapted as Adapted
from wlab.transfer.lora import AdapterState as AdapterState
from wlab.transfer.lora import Base as Base
from wlab.transfer.lora import lora as lora
from wlab.transfer.rates import discriminative as discriminative
from wlab.transfer.rates import slanted_triangular as slanted_triangular
from wlab.transfer.rates import unfreeze_at as unfreeze_at
from wlab.transfer.starts import embedding as embedding
from wlab.transfer.starts import gaussian as gaussian
from wlab.transfer.starts import he_uniform as he_uniform
from wlab.transfer.starts import pissa as pissa
from wlab.transfer.warm import warm_start as warm_start
