"""Node groups that are parts of larger ones, made when they are first used and found again in the file afterwards.

Besides order, groups bring speed: each node and link that is added updates the whole of its tree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bpy

from .materials import ours, stamp
from .nodes import Field, Graph

BOOL, FLOAT, INT, MATRIX, OBJECT, STRING, VECTOR = (
    f"NodeSocket{kind}" for kind in ("Bool", "Float", "Int", "Matrix", "Object", "String", "Vector")
)
GEOMETRY = "NodeSocketGeometry"
_OUTPUTS = {"VECTOR": VECTOR, "RGBA": VECTOR, "GEOMETRY": GEOMETRY}  # the others are floats

Write = Callable[..., dict[str, Field]]  # (graph, **inputs) -> outputs by name


class Family:
    """The parts of one node group, in the order of their definition."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.makers: list[Callable[[], bpy.types.NodeTree]] = []

    def part(self, title: str, **inputs: str) -> Callable[[Write], Write]:
        """Turn a function that writes nodes into one that uses a group of them. `inputs`: the types of its sockets."""
        name = f"{self.name}: {title}"

        def wrap(write: Write) -> Write:
            def make() -> bpy.types.NodeTree:
                return ours(bpy.data.node_groups, name) or _written(name, write, inputs)

            def use(g: Graph, **fields: Any) -> dict[str, Field]:
                return g.group(make(), **fields)

            self.makers.append(make)
            return use

        return wrap


def _written(name: str, write: Write, inputs: dict[str, str]) -> bpy.types.NodeTree:
    """A new node group: `write(graph, **inputs)` makes its outputs of its inputs."""
    tree = bpy.data.node_groups.new(name, "GeometryNodeTree")
    for key, kind in inputs.items():
        tree.interface.new_socket(key, in_out="INPUT", socket_type=kind)
    g = Graph(tree)
    source = g.node("NodeGroupInput")
    made = write(g, **{key: g.out(source, key) for key in inputs})
    for key, value in made.items():
        tree.interface.new_socket(key, in_out="OUTPUT", socket_type=_OUTPUTS.get(value.socket.type, FLOAT))
    g.node("NodeGroupOutput", *made.values())
    g.arrange()
    stamp(tree, name)
    return tree
