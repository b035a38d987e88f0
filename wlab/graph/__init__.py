"""What a function does with its parameters, read from its jaxpr: any model, no layer of ours.

`read` finds the uses of every leaf: which primitive, which of the leaf's own axes are summed
over, kept, looked up or looped over. `capture` runs the function and keeps a statistic of what each
leaf is multiplied with; `segments` cuts it where leaves become final, stage by stage. `replace`
computes chosen products by operations of the caller's, with packed codes or factors in a leaf's
place. `groups` finds which slices of which leaves live and die together, and `shrink` the smaller
function and tree without some of them. `channels_last` runs convolutions as CPUs want them.
"""

from wlab.graph.axes import Atom as Atom
from wlab.graph.capturing import Statistic as Statistic
from wlab.graph.capturing import capture as capture
from wlab.graph.capturing import captured as captured
from wlab.graph.capturing import products as products
from wlab.graph.convolving import channels_last as channels_last
from wlab.graph.costs import Cost as Cost
from wlab.graph.costs import costs as costs
from wlab.graph.costs import multiply_adds as multiply_adds
from wlab.graph.cutting import Segment as Segment
from wlab.graph.cutting import begun as begun
from wlab.graph.cutting import operands_of as operands_of
from wlab.graph.cutting import read_uncalled as read_uncalled
from wlab.graph.cutting import run_segment as run_segment
from wlab.graph.cutting import segments as segments
from wlab.graph.distance import distance as distance
from wlab.graph.groups import Group as Group
from wlab.graph.groups import Groups as Groups
from wlab.graph.groups import Keep as Keep
from wlab.graph.groups import Member as Member
from wlab.graph.groups import groups as groups
from wlab.graph.matrices import from_matrix as from_matrix
from wlab.graph.matrices import refuse_parts as refuse_parts
from wlab.graph.matrices import to_matrix as to_matrix
from wlab.graph.product import Operation as Operation
from wlab.graph.product import Product as Product
from wlab.graph.product import before as before
from wlab.graph.product import matmul as matmul
from wlab.graph.reading import Graph as Graph
from wlab.graph.reading import read as read
from wlab.graph.replacing import replace as replace
from wlab.graph.scaling import Part as Part
from wlab.graph.scaling import Scaling as Scaling
from wlab.graph.scaling import Scalings as Scalings
from wlab.graph.scaling import apart as apart
from wlab.graph.scaling import rescale as rescale
from wlab.graph.scaling import rows as rows
from wlab.graph.scaling import scaling as scaling
from wlab.graph.scaling import scalings as scalings
from wlab.graph.shrinking import Shrunk as Shrunk
from wlab.graph.shrinking import shrink as shrink
from wlab.graph.use import Use as Use
from wlab.graph.verifying import emptied as emptied
from wlab.graph.verifying import masked as masked
from wlab.graph.verifying import masks as masks
from wlab.graph.verifying import verify as verify
from wlab.graph.view import View as View
