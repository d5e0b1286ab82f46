"""LoCO in JAX: 3D poses of every person in one picture, from a compressed code of a volumetric heatmap."""

__version__ = "0.1.0"
