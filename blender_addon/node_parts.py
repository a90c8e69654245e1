"""Node groups that are parts of larger ones, made when they are first used and found again in the file afterwards.

Besides order, groups bring speed: each node and link that is added updates the whole of its tree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bpy

from .materials import is_ours, ours, stamp
from .nodes import Field, Graph, new_group

BOOL, FLOAT, INT, MATRIX, OBJECT, STRING, VECTOR = (
    f"NodeSocket{kind}" for kind in ("Bool", "Float", "Int", "Matrix", "Object", "String", "Vector")
)
GEOMETRY = "NodeSocketGeometry"
_OUTPUTS = {"VALUE": FLOAT, "VECTOR": VECTOR, "RGBA": VECTOR, "GEOMETRY": GEOMETRY}

Write = Callable[..., dict[str, Field]]  # (graph, **inputs) -> outputs by name


class Family:
    """The parts of one node group, in the order of their definition."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.makers: dict[str, Callable[[], bpy.types.NodeTree]] = {}  # of each part by the name of its group

    def part(self, title: str, **inputs: str) -> Callable[[Write], Write]:
        """Turn a function that writes nodes into one that uses a group of them. `inputs`: the types of its sockets."""
        name = f"{self.name}: {title}"

        def wrap(write: Write) -> Write:
            def make() -> bpy.types.NodeTree:
                groups = (x for x in bpy.data.node_groups if is_ours(x, name) and not _changed(x, inputs))
                return ours(groups, name) or _written(name, write, inputs)

            def use(g: Graph, **fields: Any) -> dict[str, Field]:
                return g.group(make(), **fields)

            self.makers[name] = make
            return use

        return wrap


def _changed(tree: bpy.types.NodeTree, inputs: dict[str, str]) -> bool:
    """Whether the user has renamed or removed an input of a group."""
    there = {item.name for item in tree.interface.items_tree if item.item_type == "SOCKET" and item.in_out == "INPUT"}
    return not inputs.keys() <= there


def _written(name: str, write: Write, inputs: dict[str, str]) -> bpy.types.NodeTree:
    """A new node group: `write(graph, **inputs)` makes its outputs of its inputs."""
    with new_group(name) as tree:
        for key, kind in inputs.items():
            tree.interface.new_socket(key, in_out="INPUT", socket_type=kind)
        g = Graph(tree)
        source = g.node("NodeGroupInput")
        made = write(g, **{key: g.out(source, key) for key in inputs})
        for key, value in made.items():
            tree.interface.new_socket(key, in_out="OUTPUT", socket_type=_OUTPUTS[value.socket.type])
        g.node("NodeGroupOutput", *made.values())
        g.arrange()
        stamp(tree, name)
    return tree


def named(g: Graph, name: str, kind: str) -> Field:
    """The values of an attribute."""
    return g.field("GeometryNodeInputNamedAttribute", name, data_type=kind, output="Attribute")


def switch(g: Graph, condition: Field, no: Field, yes: Field) -> Field:
    """One geometry or the other."""
    node = g.node("GeometryNodeSwitch", input_type="GEOMETRY")
    for name, value in (("Switch", condition), ("False", no), ("True", yes)):
        g.feed(next(s for s in node.inputs if s.name == name and s.enabled), value)
    return g.out(node)
