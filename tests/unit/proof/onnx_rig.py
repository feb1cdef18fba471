"""Small ONNX models with random weights."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Maker:
    """An ONNX model, operator by operator, each on the result before it unless said otherwise."""

    def __init__(self, *shape, seed=0, batch="n"):
        self.random = np.random.default_rng(seed)
        self.shape, self.nodes, self.weights, self.last, self.batch = shape, [], [], "x", batch

    def weight(self, *shape, array=None):
        fan = int(np.prod(shape[1:])) if len(shape) == 4 else (shape[0] if shape else 1)
        array = self.random.normal(0, fan**-0.5, shape).astype(np.float32) if array is None else array
        self.weights.append(numpy_helper.from_array(array, f"w{len(self.weights)}"))
        return self.weights[-1].name

    def __call__(self, kind, *more, a=None, **attributes):
        name = f"r{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [a or self.last, *more], [name], **attributes))
        self.last = name
        return name

    def dense(self, size, out):
        return self("Gemm", self.weight(size, out), self.weight(out))

    def conv(self, channels, out, kernel=3, **attributes):
        return self("Conv", self.weight(out, channels, kernel, kernel), self.weight(out), **attributes)

    def model(self, kind=TensorProto.FLOAT):
        end = helper.make_tensor_value_info(self.last, kind, ["n", "out"])
        given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [self.batch, *self.shape])
        graph = helper.make_graph(self.nodes, "net", [given], [end], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def bytes(self, kind=TensorProto.FLOAT):
        model = self.model(kind)
        onnx.checker.check_model(model)
        return model.SerializeToString()


def perceptron():
    make = Maker(4)
    make.dense(4, 20), make("Relu"), make.dense(20, 3)
    return make


def classifier():
    make = perceptron()
    make("ArgMax", axis=1)
    return make


def shaped_like_lenet():
    """With pads, mean pools, tanh, and rows of maps."""
    make = Maker(1, 14, 14, seed=1, batch=1)
    make.conv(1, 3, 5, pads=[2, 2, 2, 2]), make("Tanh")
    make("AveragePool", kernel_shape=[2, 2], strides=[2, 2])
    make.conv(3, 4), make("Sigmoid"), make("Flatten")
    make.dense(100, 10)
    return make


def residual():
    """With largest of windows beyond the border, strides, sums, a mean of other than a power of two."""
    make = Maker(2, 9, 9, seed=2)
    first = make.conv(2, 4, pads=[1, 1, 1, 1], strides=[2, 2])
    make("Relu")
    make("MaxPool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1])
    make("Add", first), make("Relu")
    make("MaxPool", kernel_shape=[2, 2], strides=[1, 1]), make("Tanh")
    make("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=0)
    make("GlobalAveragePool")
    make("Reshape", make.weight(array=np.array([-1, 4])))
    make("MatMul", make.weight(4, 5)), make("Add", make.weight(5)), make("Identity")
    return make


def largest_of_sums():
    """With means that have more bits than a word, and the largest of the largest."""
    make = Maker(1, 12, 12, seed=4)
    make("AveragePool", kernel_shape=[4, 4], pads=[2, 2, 2, 2], strides=[2, 2], count_include_pad=1)
    make("MaxPool", kernel_shape=[2, 2], strides=[1, 1])
    make("MaxPool", kernel_shape=[2, 2], strides=[2, 2], pads=[0, 1, 0, 1])
    make("Relu"), make("Flatten")
    make.dense(12, 3), make("Sigmoid")
    return make


def picture_in_a_row():
    make = Maker(36, seed=3)
    make("Reshape", make.weight(array=np.array([-1, 1, 6, 6])))
    make.conv(1, 2), make("Relu"), make("AveragePool", kernel_shape=[2, 2], count_include_pad=1, pads=[0, 1, 0, 1])
    make("Reshape", make.weight(array=np.array([0, -1])))
    make.dense(2 * 3 * 5, 4), make("Relu")
    return make
