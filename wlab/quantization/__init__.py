"""Weights in few bits: formats, quantized arrays as pytree nodes, and training that knows."""

from wlab.quantization.arrays import dequantize as dequantize
from wlab.quantization.arrays import quantize as quantize
from wlab.quantization.arrays import round_to_grid as round_to_grid
from wlab.quantization.fake import fake_quant as fake_quant
from wlab.quantization.formats import Format as Format
from wlab.quantization.formats import int2 as int2
from wlab.quantization.formats import int4 as int4
from wlab.quantization.formats import int8 as int8
from wlab.quantization.formats import integer as integer
from wlab.quantization.grids import Integers as Integers
from wlab.quantization.packing import pack as pack
from wlab.quantization.packing import packed_length as packed_length
from wlab.quantization.packing import unpack as unpack
from wlab.quantization.qtensor import QTensor as QTensor
from wlab.quantization.qtensor import check as check
from wlab.quantization.qtensor import is_qtensor as is_qtensor
from wlab.quantization.ranges import RangeFn as RangeFn
from wlab.quantization.ranges import absmax as absmax
from wlab.quantization.ranges import mse as mse
from wlab.quantization.report import effective_bits as effective_bits
from wlab.quantization.report import report as report
from wlab.quantization.report import sqnr as sqnr
from wlab.quantization.trees import dequantize_tree as dequantize_tree
from wlab.quantization.trees import quantize_tree as quantize_tree
