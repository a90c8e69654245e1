"""PixWorld: photos, an image or a prompt in; 3D Gaussians out.

Conventions inside this package (converted at the border: files, wire, Blender):

- cameras are camera-to-world, OpenCV axes (x right, y down, z forward); intrinsics in pixels, the centre of the
  top-left pixel is (0.5, 0.5);
- depth is z in scene units, 0 where unknown;
- images are float 0..1, sRGB-encoded, channels first;
- Gaussians hold activated values (linear scale, opacity 0..1, unit wxyz quaternions).
"""

import os

# Must be set before torch is imported. Its threads would otherwise spin while the rasterizer's own threads need the
# cores: a refinement step took 95 ms instead of 73 on two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
