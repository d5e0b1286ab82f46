"""LoCO in JAX: 3D poses of every person in one picture, from a compressed code of a volumetric heatmap."""

__version__ = "1.0.0"


def load(source: str = "released", min_score: float | None = None):
    """Returns a trained LoCO, a function from a picture to its people; see `loco_jax.predict.people.load`."""
    from loco_jax.predict import people  # here, so that `import loco_jax` is quick

    return people.load(source, min_score)
