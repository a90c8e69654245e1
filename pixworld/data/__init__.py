"""Where training views come from: procedural scenes and the banks that hold them."""
