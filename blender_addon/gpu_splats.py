"""Splats drawn by the graphics card: sorted quads with the projection, low-pass and cut-off of shading.py.

What a Gaussian is stays in textures; a quad is drawn for each, in an order that is a texture too, so that turning the
view uploads four bytes a Gaussian. The order and the colours seen from the eye are computed by a thread in numpy, and
until they come the last ones are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache

import bpy
import gpu
import numpy as np
from gpu.types import (
    Buffer,
    GPUBatch,
    GPUFrameBuffer,
    GPUShader,
    GPUShaderCreateInfo,
    GPUStageInterfaceInfo,
    GPUTexture,
)
from gpu_extras.batch import batch_for_shader
from mathutils import Matrix

from .harmonics import colours
from .materials import MAX_ALPHA, MIN_ALPHA
from .splat_nodes import LOW_PASS, NEAR
from .splats import FIELDS, read

_WIDTH = 4096  # of the textures that hold Gaussians; a card allows 16,384 rows
_TURNED = np.cos(np.radians(3))  # beyond, an old order is worse than a rough one
_MOST = 1 << 24  # an order is kept in floats, which count no further

_VERTEX = """
ivec2 texel(int i) { return ivec2(i % WIDTH, i / WIDTH); }

vec3 turned(vec3 v, vec4 wxyz) { return v + 2.0 * cross(wxyz.yzw, cross(wxyz.yzw, v) + wxyz.x * v); }

void main()
{
  ivec2 at = texel(int(texelFetch(order, texel(gl_InstanceID), 0).x + 0.5));
  vec4 mean_opacity = texelFetch(means, at, 0);
  vec4 rotation = texelFetch(quats, at, 0);
  vec3 scale = texelFetch(scales, at, 0).xyz;
  vec4 centre = to_view * vec4(mean_opacity.xyz, 1.0);
  float z = perspective != 0 ? -centre.z : 1.0;
  opacity = mean_opacity.w;
  if (opacity <= MIN_ALPHA || (perspective != 0 && z <= NEAR)) {
    gl_Position = vec4(0.0, 0.0, 2.0, 1.0);  // outside of every view
    return;
  }
  /* The Jacobian is taken no farther out than 15 % of the image beyond its borders. */
  vec2 focal = lens.xy, middle = lens.zw;
  vec2 at_1 = perspective != 0 ? clamp(centre.xy / z, (-1.3 - middle) / focal, (1.3 - middle) / focal) : vec2(0.0);
  mat3 to_axes = mat3(to_view);
  vec3 X, Y;
  for (int i = 0; i < 3; i++) {
    vec3 axis = vec3(0.0);
    axis[i] = scale[i];
    vec3 seen = to_axes * turned(axis, rotation);
    X[i] = (seen.x + seen.z * at_1.x) / z;
    Y[i] = (seen.y + seen.z * at_1.y) / z;
  }
  vec2 pixel = 2.0 / (focal * image_size);
  float a = sqrt(dot(X, X) + LOW_PASS * pixel.x * pixel.x);
  float b = dot(X, Y) / a;
  float c = sqrt(max(dot(Y, Y) + LOW_PASS * pixel.y * pixel.y - b * b, 0.0));
  corner = position * sqrt(2.0 * log(opacity / MIN_ALPHA));
  vec2 at_quad = centre.xy + z * vec2(a * corner.x, b * corner.x + c * corner.y);
  gl_Position = vec4(focal * at_quad + middle * z, depths.x * centre.z + depths.y, z);
  colour = texelFetch(colours, at, 0).rgb;
  if (linear_light != 0) {
    colour = mix(colour / 12.92, pow((colour + 0.055) / 1.055, vec3(2.4)), step(0.04045, colour));
  }
}
"""

_FRAGMENT = """
void main()
{
  float alpha = min(opacity * exp(-0.5 * dot(corner, corner)), MAX_ALPHA);
  if (alpha < MIN_ALPHA || (behind != 0 && texelFetch(depth, ivec2(gl_FragCoord.xy), 0).x < gl_FragCoord.z)) {
    discard;
  }
  rgba = vec4(colour * alpha, alpha);
}
"""

_COVER = """
void main()
{
  rgba = texelFetch(canvas, ivec2(gl_FragCoord.xy), 0);
  if (linear_light == 0 && rgba.a > 0.0) {
    vec3 colour = rgba.rgb / rgba.a;
    rgba.rgb = rgba.a * mix(colour / 12.92, pow((colour + 0.055) / 1.055, vec3(2.4)), step(0.04045, colour));
  }
}
"""


@dataclass
class _Seen:
    """What one view needs of one cloud."""

    view: np.ndarray  # row of depth [3] and eye [3] in the object's frame that order and colours are for
    order: GPUTexture
    colours: GPUTexture | None  # None: those of the cloud
    coming: Future | None = None
    coming_view: np.ndarray | None = None


@dataclass
class Cloud:
    """The Gaussians of one object on the graphics card. `draw` it in a frame buffer."""

    arrays: Mapping[str, np.ndarray]  # as in splats.attributes
    seen: dict[int, _Seen] = field(default_factory=dict)  # by a number of the view

    def __post_init__(self) -> None:
        arrays = self.arrays
        if len(self) > _MOST:
            raise ValueError(f"{len(self):,} splats are more than the viewport draws at once ({_MOST:,}).")
        self.means = _texture(np.c_[arrays["means"], arrays["opacities"]])
        self.quats = _texture(arrays["quats"])
        self.scales = _texture(arrays["scales"])
        self.colours = _texture(colours(arrays["sh"][:, :1], arrays["means"]))
        self.any_depth = _texture(np.ones(1, np.float32))
        self.middle = arrays["means"].mean(axis=0) if len(self) else np.zeros(3, np.float32)

    def __len__(self) -> int:
        return len(self.arrays["means"])

    def shows(self, data: bpy.types.PointCloud) -> bool:
        """Whether a point cloud still holds these Gaussians. Edits of view dependence change a base colour too."""
        found = data.attributes
        if len(data.points) != len(self) or not {"scale", "rotation", "radiance:base"} <= set(found.keys()):
            return False
        now = read(data, bands=0)
        then = dict(self.arrays) | {"sh": self.arrays["sh"][:, :1]}
        return all(np.array_equal(now[name], then[name]) for name in FIELDS)

    def prepare(self, number: int, to_view: np.ndarray, worker: ThreadPoolExecutor | None) -> bool:
        """Have the order for a view ready, or ask the worker for it; without one, wait. True while one is coming.

        `to_view` is the matrix [4 4] from the object to the view, whose camera looks along -z.
        """
        row = to_view[2, :3] / np.linalg.norm(to_view[2, :3])
        view = np.r_[row, np.linalg.solve(to_view[:3, :3], -to_view[:3, 3])].astype(np.float32)
        seen = self.seen.get(number)
        if seen is not None and seen.coming is not None and seen.coming.done():
            seen = self._take(number, seen.coming_view, seen.coming.result())
        if seen is not None and seen.coming is None and np.allclose(seen.view, view, rtol=1e-4, atol=1e-5):
            return False
        if worker is None:
            self._take(number, view, _look(self.arrays, view))
            return False
        if seen is None or seen.view[:3] @ row < _TURNED:
            roughly = _texture(_rough_order(self.arrays["means"], row))
            seen = seen or _Seen(view, roughly, None)
            seen.order, seen.view = roughly, np.r_[view[:3], 3 * [np.inf]]  # no eye: what is asked for is still due
            self.seen[number] = seen
        if seen.coming is None:
            seen.coming, seen.coming_view = worker.submit(_look, self.arrays, view), view
        return True

    def _take(self, number: int, view: np.ndarray, found: tuple[np.ndarray, np.ndarray | None]) -> _Seen:
        order, rgb = found
        self.seen[number] = _Seen(view, _texture(order), None if rgb is None else _texture(rgb))
        return self.seen[number]

    def draw(
        self,
        number: int,
        to_view: np.ndarray,
        projection: np.ndarray,
        size: tuple[int, int],
        linear: bool = False,
        depth: GPUTexture | None = None,
    ) -> None:
        """Draw over what is bound, premultiplied, as a view that was prepared sees it. Size is (width, height) in
        pixels; splats behind `depth`, window depths of that size, are left out."""
        if not len(self):
            return
        shader, seen = _shader(), self.seen[number]
        shader.bind()
        shader.uniform_float("to_view", Matrix(to_view))
        perspective = projection[3, 3] == 0
        middle = -projection[:2, 2] if perspective else projection[:2, 3]  # of the view, -1..1
        shader.uniform_float("lens", (projection[0, 0], projection[1, 1], *middle))
        shader.uniform_float("depths", projection[2, 2:])
        shader.uniform_float("image_size", size)
        shader.uniform_int("perspective", int(perspective))
        shader.uniform_int("linear_light", int(linear))
        shader.uniform_int("behind", int(depth is not None))
        for name, texture in (
            ("order", seen.order), ("means", self.means), ("quats", self.quats), ("scales", self.scales),
            ("colours", seen.colours or self.colours), ("depth", depth or self.any_depth),
        ):  # fmt: skip
            shader.uniform_sampler(name, texture)
        gpu.state.blend_set("ALPHA_PREMULT")
        gpu.state.depth_test_set("NONE")
        gpu.state.depth_mask_set(False)
        _quad().draw_instanced(shader, instance_count=len(self))
        gpu.state.blend_set("NONE")


def _look(arrays: Mapping[str, np.ndarray], view: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Order from far to near [n], as floats, and the colours seen [n 3] where they depend on the eye."""
    order = np.argsort(arrays["means"] @ view[:3]).astype(np.float32)
    sh = arrays["sh"]
    return order, None if sh.shape[1] == 1 else colours(sh, arrays["means"] - view[3:])


def _rough_order(means: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Order from far to near in 65,536 steps, ten times as fast: numpy sorts 16 bits by their digits."""
    depths = means @ row.astype(np.float32)
    low, high = np.percentile(depths[:: 1 + len(depths) // 10_000], (1, 99))  # a few splats are far away
    steps = np.clip((depths - low) * (65535 / max(high - low, 1e-12)), 0, 65535).astype(np.uint16)
    return np.argsort(steps, kind="stable").astype(np.float32)


def _texture(values: np.ndarray) -> GPUTexture:
    """Rows of _WIDTH texels that hold values [n] or [n c], c at most 4."""
    n = len(values)
    width, channels = min(max(n, 1), _WIDTH), 1 if values.ndim == 1 else 4
    height = max(1, -(-n // width))
    padded = np.zeros((height * width, channels), np.float32)
    padded[:n, : values[:1].size or 1] = values.reshape(n, values[:1].size or 1)  # n may be 0
    data = Buffer("FLOAT", padded.size, padded.reshape(-1))
    return GPUTexture((width, height), format="R32F" if channels == 1 else "RGBA32F", data=data)


@cache
def _shader() -> GPUShader:
    info = GPUShaderCreateInfo()
    for name, value in (
        ("WIDTH", _WIDTH), ("NEAR", NEAR), ("LOW_PASS", LOW_PASS), ("MIN_ALPHA", MIN_ALPHA), ("MAX_ALPHA", MAX_ALPHA)
    ):  # fmt: skip
        info.define(name, repr(value))
    info.push_constant("MAT4", "to_view")  # 108 bytes in all; every card takes 128
    info.push_constant("VEC4", "lens")
    for name in ("depths", "image_size"):
        info.push_constant("VEC2", name)
    for name in ("perspective", "linear_light", "behind"):
        info.push_constant("INT", name)
    for slot, name in enumerate(("order", "means", "quats", "scales", "colours", "depth")):
        info.sampler(slot, "FLOAT_2D", name)
    info.vertex_in(0, "VEC2", "position")
    between = GPUStageInterfaceInfo("pixworld_splat")
    between.smooth("VEC2", "corner")
    between.flat("VEC3", "colour")
    between.flat("FLOAT", "opacity")
    info.vertex_out(between)
    info.fragment_out(0, "VEC4", "rgba")
    info.vertex_source(_VERTEX)
    info.fragment_source(_FRAGMENT)
    return gpu.shader.create_from_info(info)


@cache
def _quad() -> GPUBatch:
    return batch_for_shader(_shader(), "TRI_STRIP", {"position": ((-1, -1), (1, -1), (-1, 1), (1, 1))})


@cache
def _cover() -> tuple[GPUShader, GPUBatch]:
    """A shader that lays a texture over the viewport, and the quad for it.

    A viewport's frame buffer encodes what it is given as sRGB, so colours that are encoded are decoded first.
    """
    info = GPUShaderCreateInfo()
    info.push_constant("INT", "linear_light")
    info.sampler(0, "FLOAT_2D", "canvas")
    info.vertex_in(0, "VEC2", "position")
    info.fragment_out(0, "VEC4", "rgba")
    info.vertex_source("void main() { gl_Position = vec4(position, 0.0, 1.0); }")
    info.fragment_source(_COVER)
    shader = gpu.shader.create_from_info(info)
    return shader, batch_for_shader(shader, "TRI_STRIP", {"position": ((-1, -1), (1, -1), (-1, 1), (1, 1))})


def lay_over(canvas: GPUTexture, linear: bool) -> None:
    """Put what was drawn on a canvas of its size over the viewport."""
    shader, quad = _cover()
    shader.bind()
    shader.uniform_int("linear_light", int(linear))
    shader.uniform_sampler("canvas", canvas)
    gpu.state.blend_set("ALPHA_PREMULT")
    gpu.state.depth_test_set("NONE")
    gpu.state.depth_mask_set(False)
    quad.draw(shader)
    gpu.state.blend_set("NONE")


def forget() -> None:
    """Drop the shaders and their quads."""
    for kept in (_shader, _quad, _cover):
        kept.cache_clear()


def picture(
    clouds: list[tuple[Cloud, np.ndarray]],
    view: np.ndarray,
    projection: np.ndarray,
    size: tuple[int, int],
    linear: bool = False,
) -> np.ndarray:
    """Clouds, each with its matrix to the world, as a view and a projection see them: premultiplied RGBA [h w 4]."""
    width, height = size
    canvas = GPUTexture(size, format="RGBA16F")
    frame = GPUFrameBuffer(color_slots=[canvas])
    with frame.bind():
        frame.clear(color=(0, 0, 0, 0))
        gpu.state.viewport_set(0, 0, width, height)
        for cloud, matrix in clouds:
            cloud.prepare(0, view @ matrix, None)
            cloud.draw(0, view @ matrix, projection, size, linear)
        pixels = frame.read_color(0, 0, width, height, 4, 0, "FLOAT")
    pixels.dimensions = width * height * 4
    return np.array(pixels, np.float32).reshape(height, width, 4)[::-1]
