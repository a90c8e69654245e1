"""The parts of the splats' modifier, which compute what a Gaussian looks like from the active camera. They can be made
one at a time before they are needed, so that Blender's window never stops for long: see `shading.make_ready`."""

from __future__ import annotations

import functools
import operator

from .harmonics import first, second, third
from .materials import MIN_ALPHA
from .node_parts import FLOAT, MATRIX, VECTOR, Family, named
from .nodes import Field, Graph
from .rendering import LINEAR

GROUP = "PixWorld Splats"
NEAR = 0.01  # nearest z that is drawn, scene units
LOW_PASS = 0.3  # variance added to the projection, px²

FAMILY = Family(GROUP)


def _driven(g: Graph, name: str, path: str, missing: float | None = None) -> Field:
    """A value that follows a property of the scene that is shown; `missing` where the scene has none."""
    node = g.node("ShaderNodeValue")
    node.name = node.label = name
    driver = node.outputs[0].driver_add("default_value").driver
    driver.type = "SUM"
    variable = driver.variables.new()
    variable.type = "CONTEXT_PROP"
    target = variable.targets[0]
    target.context_property = "ACTIVE_SCENE"
    target.data_path = path
    if missing is not None:
        target.use_fallback_value, target.fallback_value = True, missing
    return g.out(node)


@FAMILY.part("Lens")
def lens(g: Graph) -> dict[str, Field]:
    """width, height, fx, fy, cx, cy of the scene's camera in pixels, by drivers that follow camera and scene.
    The same formulas as in cameras.py."""

    percent = _driven(g, "resolution_percentage", "render.resolution_percentage") / 100.0
    # Blender drops the fraction of a pixel
    width, height = (
        g.math("FLOOR", _driven(g, f"resolution_{a}", f"render.resolution_{a}") * percent + 1e-4) for a in "xy"
    )
    aspect_x, aspect_y = (_driven(g, f"aspect_{a}", f"render.pixel_aspect_{a}") for a in "xy")
    length, shift_x, shift_y, fit, sensor_width, sensor_height = (
        _driven(g, name, f"camera.data.{name}", missing=1.0)  # else a driver stays broken once there is no camera
        for name in ("lens", "shift_x", "shift_y", "sensor_fit", "sensor_width", "sensor_height")
    )
    # sensor_fit: 0 auto (the larger side, always with sensor_width), 1 horizontal, 2 vertical
    wide, tall = width * aspect_x, height * aspect_y
    by_height = (fit > 1.5).max((fit < 0.5) * (tall > wide))
    side = wide + by_height * (tall - wide)
    sensor = sensor_width + (fit > 1.5) * (sensor_height - sensor_width)
    focal = length / sensor * side
    fx, fy = focal / aspect_x, focal / aspect_y
    cx = width * 0.5 - shift_x * side / aspect_x
    cy = height * 0.5 + shift_y * side / aspect_y
    return {"width": width, "height": height, "fx": fx, "fy": fy, "cx": cx, "cy": cy}


def _lens(g: Graph) -> list[Field]:
    found = lens(g)
    return [found[name] for name in ("width", "height", "fx", "fy", "cx", "cy")]


@FAMILY.part("Ellipse", local=VECTOR, to_camera=MATRIX)
def ellipse(g: Graph, local: Field, to_camera: Field) -> dict[str, Field]:
    """In the plane at distance 1 from the camera a Gaussian projects to the covariance [X Y][X Y]ᵀ of two rows; its
    Cholesky factor is [a 0; b c]. `local` is the position in the frame of the camera, which looks along -z with y up.
    """
    width, height, fx, fy, cx, cy = _lens(g)
    z = -1.0 * local.z
    # The Jacobian is taken no farther out than 15 % of the image beyond its borders.
    u = (local.x / z).max(-1.0 * (cx + 0.15 * width) / fx).min((1.15 * width - cx) / fx)
    v = (local.y / z).max((cy - 1.15 * height) / fy).min((cy + 0.15 * height) / fy)
    scale = named(g, "scale", "FLOAT_VECTOR")
    rotation = named(g, "rotation", "QUATERNION")
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
    return {"a": a, "b": b, "c": c}


@FAMILY.part("Drawn", local=VECTOR, opacity=FLOAT, reach=FLOAT, a=FLOAT, b=FLOAT, c=FLOAT)
def drawn(g: Graph, local: Field, opacity: Field, reach: Field, a: Field, b: Field, c: Field) -> dict[str, Field]:
    """1 but for what is too near, too faint, or outside the image; `reach` is where a Gaussian ends, in sigmas."""
    width, height, fx, fy, cx, cy = _lens(g)
    z = -1.0 * local.z
    column, row = fx * (local.x / z) + cx, cy - fy * (local.y / z)
    wide, high = reach * a * fx, reach * (b * b + c * c).sqrt() * fy
    inside = (column + wide > 0.0) * (row + high > 0.0) * (column - wide < width) * (row - high < height)
    return {"drawn": (z > NEAR) * (opacity > MIN_ALPHA) * inside}


@FAMILY.part("Lower Bands", d=VECTOR)
def lower(g: Graph, d: Field) -> dict[str, Field]:
    """What the bands of degree 1 and 2 add to a colour that is seen along d."""
    return {"sum": _weighed(g, 0, first(d.x, d.y, d.z) + second(d.x, d.y, d.z))}


@FAMILY.part("Higher Bands", d=VECTOR)
def higher(g: Graph, d: Field) -> dict[str, Field]:
    """What the bands of degree 3 add."""
    return {"sum": _weighed(g, 8, third(d.x, d.y, d.z))}


def _weighed(g: Graph, start: int, weights: list[Field]) -> Field:
    """The sum of bands from `start` on by their weights. Attributes that a scene lacks read as zero."""
    terms = [named(g, f"radiance:sh_{start + i}", "FLOAT_VECTOR") * weight for i, weight in enumerate(weights)]
    return functools.reduce(operator.add, terms)


@FAMILY.part("Colour", colour=VECTOR, d=VECTOR)
def seen_colour(g: Graph, colour: Field, d: Field) -> dict[str, Field]:
    """max(0, 0.5 + SH) along d, in the object's frame; the attribute radiance:base holds 0.5 + the constant band."""
    return {"seen": (colour + lower(g, d=d)["sum"] + higher(g, d=d)["sum"]).max((0.0, 0.0, 0.0))}


@FAMILY.part("Light", colour=VECTOR)
def lit(g: Graph, colour: Field) -> dict[str, Field]:
    """The colour as it is, or where the scene blends in linear light as that."""
    linear = _driven(g, LINEAR, f'["{LINEAR}"]', missing=0.0)

    def decoded(c: Field) -> Field:
        curve = g.math("POWER", (c + 0.055) / 1.055, 2.4)
        return c + linear * (c / 12.92 + (c > 0.04045) * (curve - c / 12.92) - c)

    return {"lit": g.vector(decoded(colour.x), decoded(colour.y), decoded(colour.z))}


@FAMILY.part("Normal", towards=VECTOR)
def normal(g: Graph, towards: Field) -> dict[str, Field]:
    """The shortest axis, turned against the viewing direction `towards`, in the object's frame."""
    scale, rotation = named(g, "scale", "FLOAT_VECTOR"), named(g, "rotation", "QUATERNION")
    by_x = (scale.x < scale.y) * (scale.x < scale.z)
    by_y = (1.0 - by_x) * (scale.y < scale.z)
    axis = g.field("FunctionNodeRotateVector", g.vector(by_x, by_y, 1.0 - by_x - by_y), rotation)
    return {"normal": axis * (1.0 - 2.0 * (axis.dot(towards) > 0.0))}
