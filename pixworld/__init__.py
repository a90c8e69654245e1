"""PixWorld: photos, an image or a prompt in; 3D Gaussians out.

Conventions inside this package (converted at the border: files, wire, Blender):

- cameras are camera-to-world, OpenCV axes (x right, y down, z forward); intrinsics in pixels, the centre of the
  top-left pixel is (0.5, 0.5);
- depth is z in scene units, 0 where unknown;
- images are float 0..1, sRGB-encoded, channels first;
- Gaussians hold activated values (linear scale, opacity 0..1, unit wxyz quaternions).
"""
