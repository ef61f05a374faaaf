"""Where the operands of products come from: parameters, the function's text, or nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from typing import Any, Literal

import jax
import numpy as np

from isnet_jax.lrp.trace import marks
from isnet_jax.lrp.trace.dependence import Flow
from isnet_jax.lrp.trace.jaxpr import Constant, Operand, Operation, Variable, ancestors
from isnet_jax.lrp.trace.primitives import MOVES

_LARGEST = 1 << 16
"""Elements of a matrix that is looked at; more are not worth the time."""

_JOINING = ("concatenate", "stack", "pad")

Origin = Literal["parameter", "text", "computed"]


def _first_of(found: Set[Origin]) -> Origin:
    if "parameter" in found:
        return "parameter"
    return "text" if "text" in found else "computed"


class Weights:
    """Where the operands of products come from.

    Attributes:
      names: the paths of parameters, by variable.
      texts: constants whose numbers are written into the user's functions.
      parameters: the graph's inputs that are parameters.
    """

    def __init__(
        self,
        flow: Flow,
        names: Mapping[Variable, str],
        texts: Set[Variable],
        parameters: Set[Variable],
    ):
        self.flow = flow
        self.names = names
        self.texts = texts
        self.parameters = parameters
        self._origins: dict[Variable, Origin] = {}

    def origin(self, operand: Operand) -> Origin:
        """A "parameter" is an input of the program or a value that it holds, or computed from
        one; "text" is a matrix that is written into the program, "computed" one that the program
        makes from nothing, such as an interpolation."""
        if isinstance(operand, Constant):
            return "computed"
        stack = [operand]
        while stack:
            current = stack[-1]
            if current in self._origins:
                stack.pop()
                continue
            known = self._known(current)
            if known is None:
                inputs = self._inputs(current)
                open_ = [v for v in inputs if v not in self._origins]
                if open_:
                    stack.extend(open_)
                    continue
                found: set[Origin] = {self._origins[v] for v in inputs}
                known = _first_of(found)
            self._origins[current] = known
            stack.pop()
        return self._origins[operand]

    def _known(self, variable: Variable) -> Origin | None:
        graph, producer = self.flow.graph, self.flow.producer.get(variable)
        if producer is not None:
            meaning = marks.meaning_of(producer)
            if meaning == "weight":
                return "parameter"
            return "computed" if meaning == "fixed" else None
        if variable in graph.constants:
            if math.prod(graph.shape(variable)) == 1 and not self.names.get(variable):
                return "computed"
            return "text" if variable in self.texts else "parameter"
        return "parameter" if variable in self.parameters else "computed"

    def _inputs(self, variable: Variable) -> list[Variable]:
        producer = self.flow.producer.get(variable)
        return [o for o in producer.inputs if not isinstance(o, Constant)] if producer else []

    def is_weight(self, operand: Operand) -> bool:
        """Whether the operand is a rearrangement of a parameter or of what the user calls a weight.

        The place it is taken from may depend on the input, as the parameters of an expert do.
        """
        while not isinstance(operand, Constant):
            if not self.flow.depends(operand):
                return self.origin(operand) == "parameter"
            producer = self.flow.producer.get(operand)
            if producer is None or producer.name not in MOVES or producer.name in _JOINING:
                return False
            if marks.meaning_of(producer) == "weight":
                return True
            operand = producer.inputs[0]
        return False

    def copies(self, operation: Operation, operand: Operand) -> bool:
        """Whether a product with a matrix that the program makes only copies, as patches do."""
        if self.flow.depends(operand) or self.origin(operand) != "computed":
            return False
        if math.prod(self.flow.graph.shape(operand)) > _LARGEST:
            return False
        with jax.ensure_compile_time_eval():
            matrix = np.asarray(self._computed(operand))
        if operation.name == "conv_general_dilated":
            summed = tuple(operation.params["dimension_numbers"].rhs_spec[1:])
        else:
            contracted, _ = operation.params["dimension_numbers"]
            summed = tuple(contracted[operation.inputs.index(operand)])
        return bool(np.isin(matrix, (0, 1)).all() and (matrix.sum(summed) <= 1).all())

    def _computed(self, operand: Operand) -> Any:
        if isinstance(operand, Constant):
            return operand.value
        if operand in self.flow.graph.constants:
            return self.flow.graph.constants[operand]
        producer = self.flow.producer[operand]
        values = producer.bind(*map(self._computed, producer.inputs))
        return values[producer.outputs.index(operand)]

    def name(self, operand: Operand) -> str:
        """The name of a parameter that the operand is computed from, "" if there is none."""
        found = (self.names.get(variable) for variable in ancestors(operand, self._inputs))
        return next(filter(None, found), "")

    def is_convolution(self, operation: Operation, weight: Operand) -> bool:
        """A convolution, or a product with a kernel that is stored with four or more axes."""
        if operation.name == "conv_general_dilated":
            return True
        stack = [weight]
        while stack:
            operand = stack.pop()
            if isinstance(operand, Constant):
                continue
            producer = self.flow.producer.get(operand)
            if producer is None:
                if len(self.flow.graph.shape(operand)) >= 4:
                    return True
            elif producer.name in MOVES:
                stack.extend(producer.inputs[:1])
        return False
