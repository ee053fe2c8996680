"""From networks to pools, and from a cascade to a bundle of ONNX files."""
