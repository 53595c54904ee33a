"""Counts what is compiled."""

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_voxclone.train.loop.optimizers.adamw import update


class Compiler:
    """Stands for `mx.compile`: computes as usual and keeps one entry per function and shape to be compiled."""

    def __init__(self):
        self.shapes: set = set()
        self._functions = 0

    def __call__(self, function, inputs=(), outputs=()):
        drawing = [] if function is update else [id(mx.random.state)]
        assert [id(x) for x in inputs] == [id(x) for x in outputs] == drawing
        self._functions += 1
        number = self._functions

        def compiled(*arguments):
            self.shapes.add(str([number, *((k, v.shape, v.dtype) for k, v in tree_flatten(arguments))]))
            return function(*arguments)

        return compiled
