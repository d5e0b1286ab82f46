"""Small videos."""

import struct
from fractions import Fraction

import av
import numpy as np


def film(path, *tracks, cover=False):
    """A file with tracks of (frames, height, width), the first red, the second green; returns its path."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=10) for _ in tracks]
        if cover:
            picture = container.add_stream("png", rate=10)
            picture.height, picture.width, picture.pix_fmt = 400, 400, "rgb24"
            picture.disposition = av.stream.Disposition.attached_pic.value
            frame = av.VideoFrame.from_ndarray(np.full((400, 400, 3), 255, np.uint8), format="rgb24")
        for stream, (_, height, width) in zip(streams, tracks):
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for packets in (picture.encode(frame), picture.encode()) if cover else ():
            container.mux(packets)
        for colour, stream, (count, height, width) in zip(([250, 0, 0], [0, 250, 0]), streams, tracks):
            image = np.full((height, width, 3), colour, np.uint8)
            for _ in range(count):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
    return path


def timed(times):
    """Small black frames as `videos.frames` gives them, at these times in seconds, or None."""
    for number, time in enumerate(times):
        frame = av.VideoFrame.from_ndarray(np.zeros((2, 2, 3), np.uint8), format="rgb24")
        frame.time_base = Fraction(1, 1000)
        frame.pts = None if time is None else round(1000 * time)
        yield number, frame


def tell_to_turn(path, a, b, c, d):
    """Changes the display matrix in the header of an MP4 file of one track: x' = a x + c y, y' = b x + d y."""
    content, one = path.read_bytes(), 2**16
    straight = struct.pack(">5i", one, 0, 0, 0, one)
    told = struct.pack(">5i", a * one, b * one, 0, c * one, d * one)
    track = content.index(b"tkhd")
    path.write_bytes(content[:track] + content[track:].replace(straight, told, 1))
