"""The experiments; `loco_jax/configs` is a link to this folder, so that they are installed with the package."""
