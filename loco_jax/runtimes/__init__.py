"""A trained LoCO as a graph from pictures to people, for runtimes without JAX: ONNX, and StableHLO for XLA."""
