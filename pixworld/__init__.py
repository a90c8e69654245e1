"""PixWorld: photos, an image or a prompt in; 3D Gaussians out.

Conventions inside this package (converted at the border: files, wire, Blender):

- cameras are camera-to-world, OpenCV axes (x right, y down, z forward); intrinsics in pixels, the centre of the
  top-left pixel is (0.5, 0.5);
- depth is z in scene units, 0 where unknown;
- images are float 0..1, sRGB-encoded, channels first;
- Gaussians hold activated values (linear scale, opacity 0..1, unit wxyz quaternions).
"""

import os

# How long torch's idle threads spin must be set before torch is imported. As long as GNU's OpenMP lets them, they
# keep the cores from the rasterizer's own threads: a refinement step takes 49 ms on two cores. If they do not spin
# (PASSIVE), each of many small operations waits for them to wake up: 46 ms, stereo 3.0 s, a prediction 0.66 s. For
# 3,000 to 30,000 turns: 35 ms, 1.6 s, 0.35 s. Of other OpenMPs nothing was measured.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
