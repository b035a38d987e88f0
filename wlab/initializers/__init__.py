"""Initializers: callables `(key, shape, dtype=float32) -> array`, and trees drawn by rules.

They drop into flax linen and nnx as they are. Haiku leaves the key to the initializer:
`lambda shape, dtype: init(hk.next_rng_key(), shape, dtype)`. Equinox layers take none:
`reinit` their arrays, whose kernels are `(out, in)`: `in_axis=-1, out_axis=-2`.
"""

from wlab.initializers.distributions import constant as constant
from wlab.initializers.distributions import normal as normal
from wlab.initializers.distributions import ones as ones
from wlab.initializers.distributions import sparse as sparse
from wlab.initializers.distributions import truncated_normal as truncated_normal
from wlab.initializers.distributions import uniform as uniform
from wlab.initializers.distributions import zeros as zeros
from wlab.initializers.fans import Axes as Axes
from wlab.initializers.fans import Fans as Fans
from wlab.initializers.fans import fans as fans
from wlab.initializers.gains import gain as gain
from wlab.initializers.initializer import Initializer as Initializer
from wlab.initializers.lsuv import LSUVInfo as LSUVInfo
from wlab.initializers.lsuv import lsuv as lsuv
from wlab.initializers.mup import WidthRatio as WidthRatio
from wlab.initializers.mup import mup_adam as mup_adam
from wlab.initializers.mup import mup_init as mup_init
from wlab.initializers.mup import mup_sgd as mup_sgd
from wlab.initializers.mup import scale_by_path as scale_by_path
from wlab.initializers.mup import scale_leaves as scale_leaves
from wlab.initializers.mup import width_ratios as width_ratios
from wlab.initializers.orthogonal import delta_orthogonal as delta_orthogonal
from wlab.initializers.orthogonal import orthogonal as orthogonal
from wlab.initializers.reinit import reinit as reinit
from wlab.initializers.variance import glorot_normal as glorot_normal
from wlab.initializers.variance import glorot_uniform as glorot_uniform
from wlab.initializers.variance import he_normal as he_normal
from wlab.initializers.variance import he_uniform as he_uniform
from wlab.initializers.variance import lecun_normal as lecun_normal
from wlab.initializers.variance import lecun_uniform as lecun_uniform
from wlab.initializers.variance import residual_scaled as residual_scaled
from wlab.initializers.variance import variance_scaling as variance_scaling
from wlab.tree import path_key as path_key
