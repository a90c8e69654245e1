"""How splats look: exact quads in final renders, ellipsoids in the viewport. Everything is nodes, so that a saved
.blend needs neither this extension nor any script.

Final render: a Geometry Nodes modifier turns each Gaussian into a quad that faces the active camera, spanned by the
same projected covariance, low-pass and cut-off as `pixworld.render`, its colour the SH seen from there. It follows
the camera of each frame. Viewport: the point cloud itself, its balls shaded by the Gaussian's largest value along the
ray (base colour only), sorted from the active camera.
"""

from __future__ import annotations

import bpy

from .nodes import Field, Graph

NEAR = 0.01  # nearest z that is drawn, scene units
LOW_PASS = 0.3  # variance added to the projection, px²
MIN_ALPHA = 1 / 255
MAX_ALPHA = 0.999

GROUP = "PixWorld Splats"
QUADS = "PixWorld Splats (render)"
ELLIPSOIDS = "PixWorld Splats (viewport)"


def shade(splats: bpy.types.Object) -> None:
    """Give a point cloud object of `splats.make` its materials and its modifier."""
    splats.data.materials.clear()
    splats.data.materials.append(bpy.data.materials.get(ELLIPSOIDS) or _ellipsoids())
    modifier = splats.modifiers.new(GROUP, "NODES")
    modifier.node_group = bpy.data.node_groups.get(GROUP) or _modifier()


def match_training(scene: bpy.types.Scene) -> None:
    """Set the scene up so that Cycles shows what the splats were trained to show.

    Colours are shown as they are, a pixel is sampled at its centre, and every layer of splats counts.
    """
    scene.render.engine = "CYCLES"
    scene.view_settings.view_transform = "Raw"
    scene.view_settings.look = "None"
    scene.view_settings.exposure, scene.view_settings.gamma = 0, 1
    scene.render.film_transparent = False
    cycles = scene.cycles
    cycles.samples = 1
    cycles.use_adaptive_sampling = False
    cycles.use_denoising = False
    cycles.pixel_filter_type = "BOX"
    cycles.filter_width = 0.01
    # Fewer layers end in black; without a minimum, Russian roulette ends them at random.
    cycles.transparent_max_bounces = 1024
    cycles.min_transparent_bounces = 1024


# --- final render


def _modifier() -> bpy.types.NodeTree:
    tree = bpy.data.node_groups.new(GROUP, "GeometryNodeTree")
    tree.is_modifier = True
    tree.interface.new_socket("Geometry", in_out="INPUT", socket_type="NodeSocketGeometry")
    tree.interface.new_socket("Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")
    g = Graph(tree)
    points = g.field("NodeGroupInput", output="Geometry")

    # The camera, in the object's frame. Blender's camera looks along -z with y up.
    camera = g.node("GeometryNodeObjectInfo", transform_space="RELATIVE")
    g.feed(camera.inputs["Object"], g.field("GeometryNodeInputActiveCamera", output="Active Camera"))
    to_camera = g.field("FunctionNodeInvertMatrix", g.out(camera, "Transform"), output="Matrix")
    position = g.field("GeometryNodeInputPosition")
    local = g.field("FunctionNodeTransformPoint", position, to_camera)

    # Both branches draw from far to near in index order, which is how EEVEE blends.
    points = g.field("GeometryNodeSortElements", points, into={"Sort Weight": local.z})

    quads = _quads(g, points, position, local, camera, to_camera)
    balls = g.field("GeometryNodeSetMaterial", points, into={"Material": bpy.data.materials[ELLIPSOIDS]})
    switch = g.node("GeometryNodeSwitch", input_type="GEOMETRY")
    for name, value in (("Switch", g.field("GeometryNodeIsViewport")), ("False", quads), ("True", balls)):
        g.feed(next(s for s in switch.inputs if s.name == name and s.enabled), value)
    g.node("NodeGroupOutput", g.out(switch))
    g.arrange()
    return tree


def _quads(g: Graph, points: Field, position: Field, local: Field, camera: bpy.types.Node, to_camera: Field) -> Field:
    """A mesh of one quad a point. `local` is the position in the frame of the camera (an Object Info node).

    In the plane at distance 1 from the camera a Gaussian projects to the covariance [X Y][X Y]ᵀ of two rows; its
    Cholesky factor [a 0; b c] spans the quad, which is put back at the distance of the Gaussian.
    """
    z = -1.0 * local.z
    x, y = local.x / z, local.y / z
    width, height, fx, fy, cx, cy = _intrinsics(g)

    base = g.node("GeometryNodeInputNamedAttribute", "radiance:base", data_type="FLOAT_COLOR")
    rgba = g.node("FunctionNodeSeparateColor", g.out(base))
    opacity = g.out(rgba, "Alpha")
    reach = g.math("MULTIPLY", g.math("LOGARITHM", opacity * 255.0, 2.718281828459045).max(0.0), 2.0).sqrt()

    # The Jacobian is taken no farther out than 15 % of the image beyond its borders.
    u = x.max(-1.0 * (cx + 0.15 * width) / fx).min((1.15 * width - cx) / fx)
    v = y.max((cy - 1.15 * height) / fy).min((cy + 0.15 * height) / fy)
    scale = _named(g, "scale", "FLOAT_VECTOR")
    rotation = _named(g, "rotation", "QUATERNION")
    columns = []
    for axis in range(3):
        unit = tuple(float(i == axis) for i in range(3))
        spread = g.field("FunctionNodeRotateVector", unit, rotation) * (scale.x, scale.y, scale.z)[axis]
        seen = g.field("FunctionNodeTransformDirection", spread, to_camera)
        columns.append(((seen.x + seen.z * u) / z, (seen.y + seen.z * v) / z))
    X, Y = (g.vector(*row) for row in zip(*columns))
    a = (X.dot(X) + LOW_PASS / (fx * fx)).sqrt()
    b = X.dot(Y) / a
    c = (Y.dot(Y) + LOW_PASS / (fy * fy) - b * b).max(0.0).sqrt()
    height_y = (b * b + c * c).sqrt()

    # Leave out what is too near, too faint, or outside the image.
    col, row = fx * x + cx, cy - fy * y
    wide, high = reach * a * fx, reach * height_y * fy
    drawn = (
        (z > NEAR) * (opacity > MIN_ALPHA) * (col + wide > 0.0) * (row + high > 0.0)
        * (col - wide < width) * (row - high < height)
    )  # fmt: skip
    points = g.field(
        "GeometryNodeDeleteGeometry", points, into={"Selection": g.math("SUBTRACT", 1.0, drawn)}, domain="POINT"
    )

    def from_camera(dx: Field | float, dy: Field) -> Field:
        return g.field("FunctionNodeTransformDirection", g.vector(dx, dy, 0.0), g.out(camera, "Transform"))

    for name, value in (
        ("splat_u", from_camera(a * z, b * z)),
        ("splat_v", from_camera(0.0, c * z)),
        ("splat_colour", _seen_colour(g, rgba, (position - g.out(camera, "Location")).normalized())),
        ("splat_opacity_reach", g.vector(opacity, reach, 0.0)),
    ):
        points = _store(g, points, name, value)

    # One corner grid, instanced with size zero at each point, then spread along the two axes of its point.
    quad = g.field("GeometryNodeMeshGrid", 2.0, 2.0, 2, 2, output="Mesh")
    quad = _store(g, quad, "splat_corner", position)
    mesh = g.field("GeometryNodeInstanceOnPoints", points, into={"Instance": quad, "Scale": (0.0, 0.0, 0.0)})
    mesh = g.field("GeometryNodeRealizeInstances", mesh)
    corner = _named(g, "splat_corner", "FLOAT_VECTOR") * _named(g, "splat_opacity_reach", "FLOAT_VECTOR").y
    offset = _named(g, "splat_u", "FLOAT_VECTOR") * corner.x + _named(g, "splat_v", "FLOAT_VECTOR") * corner.y
    mesh = g.field("GeometryNodeSetPosition", mesh, into={"Offset": offset})
    mesh = _store(g, mesh, "splat_corner", corner)
    material = bpy.data.materials.get(QUADS) or _quad_material()
    return g.field("GeometryNodeSetMaterial", mesh, into={"Material": material})


def _seen_colour(g: Graph, base: bpy.types.Node, d: Field) -> Field:
    """max(0, 0.5 + SH) along d, in the object's frame; the attribute radiance:base holds 0.5 + the constant band.
    The polynomials are those of pixworld/sh.py, up to degree 3; attributes that a scene lacks read as zero."""
    x, y, z = d.x, d.y, d.z
    xx, yy, zz = x * x, y * y, z * z
    c1, c2 = 0.4886025119029199, 1.0925484305920792
    basis = [
        -c1 * y, c1 * z, -c1 * x,
        c2 * (x * y), -c2 * (y * z), 0.31539156525252005 * (3.0 * zz - 1.0), -c2 * (x * z), c2 / 2 * (xx - yy),
        -0.5900435899266435 * (y * (3.0 * xx - yy)),
        2.890611442640554 * (x * y * z),
        -0.4570457994644658 * (y * (5.0 * zz - 1.0)),
        0.3731763325901154 * (z * (5.0 * zz - 3.0)),
        -0.4570457994644658 * (x * (5.0 * zz - 1.0)),
        1.445305721320277 * (z * (xx - yy)),
        -0.5900435899266435 * (x * (xx - 3.0 * yy)),
    ]  # fmt: skip
    colour = g.vector(*(g.out(base, name) for name in ("Red", "Green", "Blue")))
    for i, weight in enumerate(basis):
        colour = colour + _named(g, f"radiance:sh_{i}", "FLOAT_VECTOR") * weight
    return colour.max((0.0, 0.0, 0.0))


def _intrinsics(g: Graph) -> tuple[Field, ...]:
    """width, height, fx, fy, cx, cy of the scene's camera in pixels, by drivers that follow camera and scene.
    The same formulas as in cameras.py."""

    def driven(name: str, path: str) -> Field:
        node = g.node("ShaderNodeValue")
        node.name = node.label = name
        driver = node.outputs[0].driver_add("default_value").driver
        driver.type = "SUM"
        variable = driver.variables.new()
        variable.type = "CONTEXT_PROP"
        variable.targets[0].context_property = "ACTIVE_SCENE"
        variable.targets[0].data_path = path
        return g.out(node)

    percent = driven("resolution_percentage", "render.resolution_percentage") / 100.0
    # Blender drops the fraction of a pixel
    width, height = (
        g.math("FLOOR", driven(f"resolution_{a}", f"render.resolution_{a}") * percent + 1e-4) for a in "xy"
    )
    aspect_x, aspect_y = (driven(f"aspect_{a}", f"render.pixel_aspect_{a}") for a in "xy")
    lens, shift_x, shift_y, fit, sensor_width, sensor_height = (
        driven(name, f"camera.data.{name}")
        for name in ("lens", "shift_x", "shift_y", "sensor_fit", "sensor_width", "sensor_height")
    )
    # sensor_fit: 0 auto (the larger side, always with sensor_width), 1 horizontal, 2 vertical
    wide, tall = width * aspect_x, height * aspect_y
    by_height = (fit > 1.5).max((fit < 0.5) * (tall > wide))
    side = wide + by_height * (tall - wide)
    sensor = sensor_width + (fit > 1.5) * (sensor_height - sensor_width)
    focal = lens / sensor * side
    fx, fy = focal / aspect_x, focal / aspect_y
    cx = width * 0.5 - shift_x * side / aspect_x
    cy = height * 0.5 + shift_y * side / aspect_y
    return width, height, fx, fy, cx, cy


def _named(g: Graph, name: str, kind: str) -> Field:
    return g.field("GeometryNodeInputNamedAttribute", name, data_type=kind, output="Attribute")


def _store(g: Graph, geometry: Field, name: str, value: Field) -> Field:
    into = {"Name": name, "Value": value}
    return g.field("GeometryNodeStoreNamedAttribute", geometry, into=into, data_type="FLOAT_VECTOR", domain="POINT")


# --- materials


def _material(name: str) -> tuple[bpy.types.Material, Graph]:
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    material.surface_render_method = "BLENDED"
    material.use_transparency_overlap = True
    material.cycles.emission_sampling = "NONE"  # a splat is no lamp
    return material, Graph(material.node_tree)


def _glow(g: Graph, colour: Field, alpha: Field) -> None:
    """The surface shows `colour` with opacity `alpha` and neither takes nor gives other light."""
    alpha = alpha.min(MAX_ALPHA)
    alpha = alpha * (alpha > MIN_ALPHA)
    shader = g.node("ShaderNodeMixShader", alpha)
    g.feed(shader.inputs[1], g.field("ShaderNodeBsdfTransparent"))
    g.feed(shader.inputs[2], g.field("ShaderNodeEmission", colour, 1.0))
    g.node("ShaderNodeOutputMaterial", g.out(shader))
    g.arrange()


def _attribute(g: Graph, name: str, output: str) -> Field:
    return g.field("ShaderNodeAttribute", attribute_name=name, output=output)


def _quad_material() -> bpy.types.Material:
    material, g = _material(QUADS)
    corner = _attribute(g, "splat_corner", "Vector")
    opacity = _attribute(g, "splat_opacity_reach", "Vector").x
    _glow(g, _attribute(g, "splat_colour", "Vector"), opacity * (-0.5 * corner.dot(corner)).exp())
    return material


def _ellipsoids() -> bpy.types.Material:
    """The Gaussian's largest value along the viewing ray, on the front of a ball that holds its 3 sigma."""
    material, g = _material(ELLIPSOIDS)
    geometry = g.node("ShaderNodeNewGeometry")
    scale = _attribute(g, "scale", "Vector")
    rotation = g.node("ShaderNodeAttribute", attribute_name="rotation_xyzw")  # no node reads w of a quaternion
    q, w = g.out(rotation, "Vector"), g.out(rotation, "Alpha")

    def to_gaussian(v: Field) -> Field:
        """World vector -> the frame in which the Gaussian is the unit ball."""
        v = g.field("ShaderNodeVectorTransform", v, vector_type="VECTOR", convert_from="WORLD", convert_to="OBJECT")
        t = 2.0 * q.cross(v)
        return (v - t * w + q.cross(t)) / scale

    offset = g.out(geometry, "Position") - g.field("ShaderNodePointInfo", output="Position")
    o, d = to_gaussian(offset), to_gaussian(g.out(geometry, "Incoming"))
    nearest = o - d * (o.dot(d) / d.dot(d))
    distance2 = nearest.dot(nearest)
    front = 1.0 - g.out(geometry, "Backfacing")
    alpha = _attribute(g, "radiance:base", "Alpha") * (-0.5 * distance2).exp() * (distance2 < 9.0) * front
    _glow(g, _attribute(g, "radiance:base", "Color"), alpha)
    return material
