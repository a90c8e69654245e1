"""Node trees written as formulas: `Field` wraps an output socket, and arithmetic on it adds nodes.

Geometry and shader trees share the math nodes used here, so one helper serves both.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import bpy


def input_of(modifier: bpy.types.Modifier, name: str) -> tuple[Any, str]:
    """The owner and the path of an input of a Geometry Nodes modifier, as `layout.prop` wants them.

    Raises ValueError when the user has renamed or removed it.
    """
    sockets = [s for s in modifier.node_group.interface.items_tree if s.item_type == "SOCKET" and s.in_out == "INPUT"]
    key = next((s.identifier for s in sockets if s.name == name), None)
    if key is None:
        raise ValueError(
            f"The node group {modifier.node_group.name} has no input {name!r} any more; give it this name again, or "
            f"remove {modifier.name}."
        )
    if hasattr(modifier, "properties"):  # from Blender 5.2 on
        return getattr(modifier.properties.inputs, key), "value"
    return modifier, f'["{key}"]'


def set_input(modifier: bpy.types.Modifier, name: str, value: Any) -> None:
    """Set an input of a Geometry Nodes modifier; what it shows is evaluated again."""
    owner, path = input_of(modifier, name)
    if path == "value":
        owner.value = value
    else:
        owner[path[2:-2]] = value
    modifier.id_data.update_tag()


@contextlib.contextmanager
def new_group(name: str) -> Iterator[bpy.types.NodeTree]:
    """A new geometry node group to write; it goes when that fails."""
    tree = bpy.data.node_groups.new(name, "GeometryNodeTree")
    try:
        yield tree
    except BaseException:
        bpy.data.node_groups.remove(tree)
        raise


class Graph:
    """A node tree being written."""

    def __init__(self, tree: bpy.types.NodeTree) -> None:
        tree.nodes.clear()
        self.tree = tree
        self._split: dict[bpy.types.NodeSocket, bpy.types.Node] = {}

    def node(self, kind: str, *args: Any, into: dict[str, Any] | None = None, **settings: Any) -> bpy.types.Node:
        """Add a node. `settings` are its properties; `args` feed its visible inputs in order, `into` by name.

        A value is a Field, a socket or a constant; None leaves the input as it is.
        """
        node = self.tree.nodes.new(kind)
        for name, value in settings.items():
            setattr(node, name, value)
        inputs = [s for s in node.inputs if s.enabled]
        for socket, value in zip(inputs, args):
            self.feed(socket, value)
        for name, value in (into or {}).items():
            self.feed(next(s for s in inputs if s.name == name), value)
        return node

    def feed(self, socket: bpy.types.NodeSocket, value: Any) -> None:
        if isinstance(value, Field):
            value = value.socket
        if isinstance(value, bpy.types.NodeSocket):
            self.tree.links.new(value, socket)
        elif value is not None:
            socket.default_value = value

    def field(self, kind: str, *args: Any, output: str | None = None, **settings: Any) -> Field:
        """Add a node and take its output of that name, else its first visible one."""
        return self.out(self.node(kind, *args, **settings), output)

    def out(self, node: bpy.types.Node, output: str | None = None) -> Field:
        return Field(self, next(s for s in node.outputs if s.enabled and output in (None, s.name)))

    def group(self, tree: bpy.types.NodeTree, **inputs: Field) -> dict[str, Field]:
        """Add a node group with its inputs; returns its outputs."""
        node = self.node("GeometryNodeGroup", node_tree=tree)
        for key, value in inputs.items():
            self.feed(node.inputs[key], value)
        return {socket.name: Field(self, socket) for socket in node.outputs if socket.enabled}

    def math(self, operation: str, *args: Any) -> Field:
        return self.field("ShaderNodeMath", *args, operation=operation)

    def vector_math(self, operation: str, *args: Any) -> Field:
        return self.field("ShaderNodeVectorMath", *args, operation=operation)

    def vector(self, x: Any, y: Any, z: Any) -> Field:
        return self.field("ShaderNodeCombineXYZ", x, y, z)

    def arrange(self) -> None:
        """Lay the nodes out in columns by their depth, for those who open the tree."""
        column: dict[bpy.types.Node, int] = {}
        sources: dict[bpy.types.Node, list[bpy.types.Node]] = {n: [] for n in self.tree.nodes}
        for link in self.tree.links:
            sources[link.to_node].append(link.from_node)
        for node in self.tree.nodes:  # made in the order of the formula: sources come first
            column[node] = 1 + max((column.get(s, 0) for s in sources[node]), default=-1)
        rows: dict[int, int] = {}
        places: list[float] = []
        for x in column.values():
            rows[x] = rows.get(x, -1) + 1
            places += (200 * x, -160 * rows[x])
        self.tree.nodes.foreach_set("location", places)  # one by one, each would update the whole tree


class Field:
    """An output socket: a float or a vector, as its type says."""

    def __init__(self, graph: Graph, socket: bpy.types.NodeSocket) -> None:
        self.graph, self.socket = graph, socket

    @property
    def is_vector(self) -> bool:
        return self.socket.type in {"VECTOR", "RGBA"}

    def _binary(self, operation: str, other: Any) -> Field:
        if self.is_vector:
            return self.graph.vector_math(operation, self, other)
        return self.graph.math(operation, self, other)

    def __add__(self, other: Any) -> Field:
        return self._binary("ADD", other)

    def __sub__(self, other: Any) -> Field:
        return self._binary("SUBTRACT", other)

    def __rsub__(self, other: float) -> Field:
        return self.graph.math("SUBTRACT", other, self)

    def __mul__(self, other: Any) -> Field:
        """Product; a vector times a float scales it, a vector times a vector is component by component."""
        if self.is_vector and not (isinstance(other, Field) and other.is_vector):
            node = self.graph.node("ShaderNodeVectorMath", operation="SCALE")
            self.graph.feed(node.inputs["Vector"], self)
            self.graph.feed(node.inputs["Scale"], other)
            return self.graph.out(node)
        if isinstance(other, Field) and other.is_vector and not self.is_vector:
            return other * self
        return self._binary("MULTIPLY", other)

    __radd__ = __add__
    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Field:
        if self.is_vector and isinstance(other, Field) and not other.is_vector:
            return self * (1.0 / other)
        return self._binary("DIVIDE", other)

    def __rtruediv__(self, other: float) -> Field:
        return self.graph.math("DIVIDE", other, self)

    def __lt__(self, other: Any) -> Field:
        return self.graph.math("LESS_THAN", self, other)

    def __gt__(self, other: Any) -> Field:
        return self.graph.math("GREATER_THAN", self, other)

    def min(self, other: Any) -> Field:
        return self._binary("MINIMUM", other)

    def max(self, other: Any) -> Field:
        return self._binary("MAXIMUM", other)

    def sqrt(self) -> Field:
        return self.graph.math("SQRT", self)

    def exp(self) -> Field:
        return self.graph.math("EXPONENT", self)

    def dot(self, other: Field) -> Field:
        return self.graph.field("ShaderNodeVectorMath", self, other, operation="DOT_PRODUCT", output="Value")

    def cross(self, other: Field) -> Field:
        return self.graph.vector_math("CROSS_PRODUCT", self, other)

    def normalized(self) -> Field:
        return self.graph.vector_math("NORMALIZE", self)

    def _component(self, name: str) -> Field:
        split = self.graph._split
        if self.socket not in split:
            split[self.socket] = self.graph.node("ShaderNodeSeparateXYZ", self)
        return self.graph.out(split[self.socket], name)

    @property
    def x(self) -> Field:
        return self._component("X")

    @property
    def y(self) -> Field:
        return self._component("Y")

    @property
    def z(self) -> Field:
        return self._component("Z")
