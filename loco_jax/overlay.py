"""Skeletons over pictures."""

import numpy as np
from PIL import Image, ImageDraw

from loco_jax import skeleton

# Okabe and Ito's colours first, which the colour-blind tell apart too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#7B3294", "#A6611A", "#1B9E77")


def draw(image: np.ndarray, pixels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The picture `[H, W, 3]` uint8 with people `pixels[N, 14, 2]` drawn into it, where `known[N, 14]`.

    One colour a person; the right side's limbs are thinner. Joints at or behind the camera (NaN) are left out.
    """
    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture)
    width = max(2, round(max(image.shape[:2]) / 300))
    for person, (uv, there) in enumerate(zip(pixels, known)):
        colour = COLOURS[person % len(COLOURS)]
        there = there & np.isfinite(uv).all(axis=-1) & (np.abs(uv) < 1e5).all(axis=-1)
        for outline in (True, False):
            for a, b in skeleton.LIMBS:
                if there[a] and there[b]:
                    thin = skeleton.JOINTS[b].startswith("right")
                    size = max(1, width * 2 // 3) if thin else width
                    line = [*map(float, uv[a]), *map(float, uv[b])]
                    pen.line(line, fill="white" if outline else colour, width=size + 2 * outline)
        if there[0]:
            pen.text(
                (float(uv[0, 0]) + width, float(uv[0, 1]) - 6 * width),
                str(person),
                fill="white",
                stroke_width=2,
                stroke_fill=colour,
            )
    return np.asarray(picture)
