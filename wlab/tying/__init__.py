"""Sharing and tying: several leaves that a model sees, one array that is stored."""

from wlab.tying.aliases import proposals as proposals
from wlab.tying.aliases import refuse_aliases as refuse_aliases
from wlab.tying.roles import role_gradients as role_gradients
from wlab.tying.roles import role_shares as role_shares
from wlab.tying.sharing import share as share
from wlab.tying.spec import Tie as Tie
from wlab.tying.stacked import share_stacked as share_stacked
from wlab.tying.ties import tie as tie
from wlab.tying.ties import tie_leaves as tie_leaves
from wlab.tying.ties import untie_leaves as untie_leaves
