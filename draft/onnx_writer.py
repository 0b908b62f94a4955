"""Collects nodes and weights of one ONNX graph; it knows no model, and it runs nothing.

Weights stay outside the graph's bytes, so that no protobuf limit applies to them and nothing is
copied: the reader hands them over by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

CONTRIB = "com.microsoft"  # ONNX Runtime's own operators

_OPSETS = {"": 20, CONTRIB: 1}
_IR_VERSION = 10
_GROUP = 32  # MatMulNBits' block: one scale per 32 columns
_INT8_ACTIVATIONS = 4  # MatMulNBits' accuracy_level: activations rounded to INT8 in the same groups
_FLOAT = TensorProto.FLOAT

Weight = NDArray[np.uint8] | NDArray[np.float32]
Attribute = int | float
Dimension = int | str


@dataclass(frozen=True, slots=True)
class Graph:
    """A model's bytes and the weights it names."""

    model: bytes
    weights: dict[str, Weight]


@dataclass(frozen=True, slots=True)
class Quantized:
    """Integers (N, K) of 4 or 8 bits and float32 scales (N, K/32)."""

    bits: int
    values: NDArray[np.int8]
    scales: NDArray[np.float32]


class OnnxWriter:
    """Appends nodes; a value is known by its name."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, Weight] = {}
        self._sizes: dict[str, TensorProto] = {}

    def weight(self, name: str, array: Weight) -> str:
        """A constant; a name used before stands for the array it had then."""
        if name not in self._weights:
            self._weights[name] = array if array.flags.c_contiguous else array.copy()
        return name

    def sizes(self, *values: int) -> str:
        """Constant sizes; they stay inside the graph, where shapes are inferred from them."""
        name = "sizes_" + "_".join(map(str, values))
        array = np.array(values, np.int64)
        self._sizes.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def op(
        self,
        op_type: str,
        inputs: Sequence[str],
        attributes: dict[str, Attribute],
        outputs: Sequence[str] = (),
        domain: str = "",
    ) -> str:
        """Append a node; the name of its first output, made up where none is given."""
        outputs = outputs or (f"{op_type}_{len(self._nodes)}",)
        node = helper.make_node(op_type, list(inputs), list(outputs), domain=domain, **attributes)
        self._nodes.append(node)
        return outputs[0]

    def matmul(self, x: str, name: str, matrix: Quantized, output: str = "") -> str:
        """The matrix (N, K) times x (..., K): (..., N)."""
        num_rows, num_columns = matrix.values.shape
        attributes: dict[str, Attribute] = {
            "N": num_rows,
            "K": num_columns,
            "bits": matrix.bits,
            "block_size": _GROUP,
            "accuracy_level": _INT8_ACTIVATIONS,
        }
        integers = self.weight(f"{name}.values", _unsigned(matrix))
        inputs = [x, integers, self.weight(f"{name}.scales", matrix.scales)]
        return self.op("MatMulNBits", inputs, attributes, (output,) if output else (), CONTRIB)

    def gather_rows(self, row_ids: str, name: str, matrix: Quantized) -> str:
        """Rows of the matrix as float32 (..., K)."""
        integers = _unsigned(matrix).reshape(len(matrix.values), -1)
        inputs = [
            self.weight(f"{name}.values", integers),
            row_ids,
            self.weight(f"{name}.scales", matrix.scales),
        ]
        attributes: dict[str, Attribute] = {
            "bits": matrix.bits,
            "block_size": _GROUP,
            "gather_axis": 0,
            "quantize_axis": 1,
        }
        return self.op("GatherBlockQuantized", inputs, attributes, domain=CONTRIB)

    def graph(
        self,
        inputs: Mapping[str, tuple[int, Sequence[Dimension]]],
        outputs: Mapping[str, Sequence[Dimension]],
    ) -> Graph:
        """The finished graph; inputs have an ONNX element type, outputs are float32."""
        graph = helper.make_graph(
            self._nodes,
            "model",
            [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
            [helper.make_tensor_value_info(name, _FLOAT, dims) for name, dims in outputs.items()],
            [*self._sizes.values(), *(_outside(*item) for item in self._weights.items())],
        )
        opsets = [helper.make_opsetid(domain, version) for domain, version in _OPSETS.items()]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        return Graph(model.SerializeToString(), self._weights)


def _unsigned(matrix: Quantized) -> NDArray[np.uint8]:
    """Values plus 2^(bits - 1), packed from the low bits up: (N, K/32, 4 bits)."""
    shifted = (matrix.values + np.int16(1 << (matrix.bits - 1))).astype(np.uint8)
    packed = shifted if matrix.bits == 8 else _pairs(shifted)
    return packed.reshape(len(shifted), -1, _GROUP * matrix.bits // 8)


def _pairs(nibbles: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two columns to a byte, the first in the low half."""
    packed: NDArray[np.uint8] = nibbles[:, 0::2] | nibbles[:, 1::2] << np.uint8(4)
    return packed


def _outside(name: str, array: Weight) -> TensorProto:
    """Type and shape of a weight whose data is handed over at loading."""
    element_type = helper.np_dtype_to_tensor_dtype(array.dtype)
    tensor = TensorProto(name=name, data_type=element_type, dims=array.shape)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="memory")
    return tensor
