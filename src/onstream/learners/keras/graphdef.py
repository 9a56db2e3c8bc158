"""Programs of TensorFlow, kept as a GraphDef: written by the trainer, checked and run by those who serve."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from onstream.contracts import Array
from onstream.errors import CheckpointError, MissingExtraError
from onstream.learners.inputs import Part
from onstream.learners.keras.predictor import ProgramPredictor

try:
    import tensorflow as tf
except ImportError as error:
    raise MissingExtraError(
        f"this model was exported by TensorFlow ({error}): pip install tensorflow"
    ) from error

__all__ = ["GraphDefPredictor", "export_graphdef"]

_NAMES = """
Abs Acos Acosh Add AddN AddV2 All Any ArgMax ArgMin Asin Asinh Assert Atan Atan2 Atanh AvgPool AvgPool3D
BatchMatMul BatchMatMulV2 BatchMatMulV3 BatchToSpaceND BiasAdd Bincount BroadcastArgs BroadcastTo Cast
Ceil ClipByValue ConcatV2 Const Conv2D Conv3D Cos Cosh Cross Cumprod Cumsum DepthToSpace
DepthwiseConv2dNative Diag DiagPart Div DivNoNan Einsum Elu EnsureShape Equal Erf Erfc Exp ExpandDims
Expm1 Fill Floor FloorDiv FloorMod FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 Gather GatherNd
GatherV2 Greater GreaterEqual Identity IdentityN If InTopKV2 Inv InvertPermutation IsFinite IsInf IsNan
L2Loss LeakyRelu Less LessEqual Lgamma LinSpace Log Log1p LogSoftmax LogicalAnd LogicalNot LogicalOr
MatMul MatrixBandPart MatrixDiagV3 MatrixDiagPartV3 MatrixSetDiagV3 Max MaxPool MaxPool3D MaxPoolV2
Maximum Mean Min Minimum MirrorPad Mod Mul MulNoNan Neg NoOp NotEqual OneHot OnesLike Pack Pad PadV2
PartitionedCall Placeholder Pow Prod Range Rank RealDiv Reciprocal Relu Relu6 Reshape ResizeBilinear
ResizeNearestNeighbor ReverseSequence ReverseV2 Rint Roll Round Rsqrt ScatterNd SegmentMax SegmentMean
SegmentMin SegmentProd SegmentSum Select SelectV2 Selu Shape ShapeN Sigmoid Sign Sin Sinh Size Slice
Softmax Softplus Softsign SpaceToBatchND SpaceToDepth Split SplitV Sqrt Square SquaredDifference Squeeze
StatefulPartitionedCall StatelessIf StatelessWhile StopGradient StridedSlice Sub Sum Tan Tanh
TensorListFromTensor TensorListGetItem TensorListLength TensorListReserve TensorListSetItem
TensorListStack TensorScatterUpdate Tile TopKV2 Transpose TruncateDiv TruncateMod Unique Unpack
UnsortedSegmentMax UnsortedSegmentMin UnsortedSegmentProd UnsortedSegmentSum Where While Xdivy Xlog1py
Xlogy ZerosLike
"""
_OPERATORS = frozenset(_NAMES.split())
"""Operators that compute tensors from tensors, and parts of a graph from its other parts."""


def export_graphdef(
    predict: Callable[[list[Any], list[Any]], list[Any]],
    weights: Sequence[tuple[tuple[int, ...], str]],
    parts: Sequence[Part],
) -> bytes:
    """Return a function as the bytes of a graph for any number of rows.

    Parameters
    ----------
    predict : callable
        From weights and parts to predictions.
    weights : sequence of (shape, dtype)
    parts : sequence of Part

    Raises
    ------
    ValueError
        If the graph needs an operator that would be refused, or a variable of TensorFlow's own.
    """
    values = [tf.TensorSpec(shape, dtype, f"w{at}") for at, (shape, dtype) in enumerate(weights)]
    batch = [
        tf.TensorSpec((None, *part.shape), str(part.dtype).removeprefix("torch."), f"x{at}")
        for at, part in enumerate(parts)
    ]

    def named(*given: Any) -> list[Any]:
        found = predict(list(given[: len(values)]), list(given[len(values) :]))
        return [tf.identity(tensor, f"y{at}") for at, tensor in enumerate(found)]

    traced = tf.function(named, autograph=False).get_concrete_function(*values, *batch)
    if traced.captured_inputs:
        raise ValueError(
            f"it uses {[tensor.name for tensor in traced.captured_inputs]}, which are no weights of the model"
        )
    graph = traced.graph.as_graph_def()
    for node in _nodes(graph):
        if node.op not in _OPERATORS:
            raise ValueError(f"it uses the operator {node.op}, which is not served")
        # Where the user's code lies is not for those who get the model.
        node.ClearField("experimental_debug_info")
    return bytes(graph.SerializeToString(deterministic=True))


class GraphDefPredictor(ProgramPredictor):
    """Predict from a graph of TensorFlow.

    Notes
    -----
    Every node of the graph and of its functions is looked at before it is used: operators that compute tensors from
    tensors are taken, others, such as those that reach files or Python, are refused.
    """

    def _open(self, data: bytes, weights: Sequence[tuple[tuple[int, ...], str]]) -> None:
        graph = tf.compat.v1.GraphDef.FromString(data)
        for node in _nodes(graph):
            if node.op not in _OPERATORS:
                raise CheckpointError(
                    f"the exported program holds the operator {node.op!r}, which has no place in it"
                )
        inputs = [
            *(f"w{at}:0" for at in range(len(weights))),
            *(f"x{at}:0" for at in range(len(self._part_names))),
        ]
        outputs = [f"y{at}:0" for at in range(len(self._layout.labels))]
        wrapped = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph, name=""), [])
        self._program = wrapped.prune(
            [wrapped.graph.get_tensor_by_name(name) for name in inputs],
            [wrapped.graph.get_tensor_by_name(name) for name in outputs],
        )

    def _kept(self, weights: list[Array]) -> list[Any]:
        return [tf.constant(array) for array in weights]

    def _run(self, parts: list[Array], rows: int) -> list[Array]:
        found = self._program(*self._weights, *map(tf.constant, parts))
        return [np.array(values) for values in found]


def _nodes(graph: Any) -> Iterator[Any]:
    """Yield the nodes of a graph and of its functions; a call of one of them is a node as others are."""
    own = {function.signature.name for function in graph.library.function}
    for node in (*graph.node, *(node for function in graph.library.function for node in function.node_def)):
        if node.op not in own:
            yield node
