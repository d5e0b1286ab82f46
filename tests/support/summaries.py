"""Summaries of evaluations, and the tables of a Markdown text."""

# The poster's F1 at 0, 1 and 2 voxels, copied from method.md's section 3.
POSTER = {1: "97.1 / 98.4 / 98.5", 2: "92.5 / 97.0 / 97.1", 3: "56.5 / 90.3 / 92.9"}


def scores(first: float) -> dict:
    """Precision, recall and F1 that are all different: first, first + 1 %, and so on."""
    names = [(f"{t} vx", m) for t in (0, 1, 2) for m in ("precision", "recall", "f1")]
    result = {f"{t} vx": {"tp": 1, "fp": 2, "fn": 3} for t in (0, 1, 2)}
    for i, (threshold, measure) in enumerate(names):
        result[threshold][measure] = first + i / 100
    return result


METRES = {"0.4 m": {"f1": 0.612}, "0.8 m": {"f1": 0.734}, "1.2 m": {"f1": 0.856}}
SUMMARY = {
    "data": "crowd, demo scale, test split",
    "network": "PatchVHA(2)",
    "level": 2,
    "frames": 1024,
    "scores": {
        "hungarian": {"noise 0": {**scores(0.5), **METRES}, "noise 0.05": scores(0.4), "noise 0.2": scores(0.3)},
        "nearest": {"noise 0": {**scores(0.2), **METRES}, "noise 0.05": scores(0.1), "noise 0.2": scores(0.0)},
    },
    "error_cm": 12.34,
    "by_distance": [
        {"metres": [0.0, 10.0], "joints": 1234, "recall": 0.987, "error_cm": 4.56},
        {"metres": [10.0, 20.0], "joints": 0, "recall": None, "error_cm": None},
        {"metres": [20.0, 25.0], "joints": 7, "recall": 0.0, "error_cm": None},
    ],
    "code": {"mean": 0.1234, "std": 0.9876},
    "frames_with_too_many_peaks": 0,
}


def read(markdown: str) -> list[list[list[str]]]:
    """The tables of a text, each a list of rows of cells, the rule left out."""
    found, rows = [], []
    for line in [*markdown.splitlines(), ""]:
        if line.startswith("|"):
            assert line.endswith("|")
            rows.append([cell.strip() for cell in line[1:-1].split("|")])
        elif rows:
            assert len({len(row) for row in rows}) == 1
            assert all(set(cell) <= set("-:") and len(cell) >= 3 for cell in rows[1])
            found.append([rows[0], *rows[2:]])
            rows = []
    return found


# The poster's rows for LoCO(2), copied from method.md's section 6.
POSTER_LOCO = {
    "LoCO(2)": "54.76 46.94 50.13 70.67 60.48 64.62 77.00 65.92 70.40",
    "LoCO(2)+": "55.37 47.84 50.82 70.63 60.94 64.76 76.81 66.31 70.44",
    "GT volumetric heatmaps": "99.96 99.96 99.96 99.99 99.99 99.99 99.99 99.99 99.99",
    "Location Maps": "5.80 5.33 5.42 24.06 21.65 22.29 41.43 36.96 38.26",
}


def metres(first: float) -> dict:
    names = [(f"{t} m", m) for t in (0.4, 0.8, 1.2) for m in ("precision", "recall", "f1")]
    result = {f"{t} m": {} for t in (0.4, 0.8, 1.2)}
    for i, (threshold, measure) in enumerate(names):
        result[threshold][measure] = first + i / 100
    return result


NO_PARTS: dict = {name: [] for name in ("by_distance", "by_height", "by_pose", "by_crowding")}


def people(first: int) -> dict:
    """Measures that are all different: first, first + 1, and so on, in their columns' order and units."""
    numbers = iter(range(first, first + 16))
    part = {name: next(numbers) for name in ("true", "predicted", "found")}
    part |= {name: next(numbers) / 100 for name in ("precision", "recall", "f1")}
    part["named_twice"] = next(numbers) * part["true"] / 100
    part |= {name: next(numbers) for name in ("mpjpe_cm", "pa_mpjpe_cm")}
    part["widths"] = {name: next(numbers) for name in ("shoulders", "hips", "wrists")}
    return part | {name: {k: next(numbers) for k in ("median", "mean")} for name in ("along_cm", "across_cm")}


PROTOCOLS = {
    "people": 5,
    "matched": 4,
    **{
        kind: dict.fromkeys(("pck_all", "pck_matched", "pck_hidden", "auc_all", "auc_matched", "mpjpe_mm"))
        for kind in ("relative", "bones", "absolute", "absolute_bones")
    },
    "by_group": [],
}


def system(first: float, error_cm: float | None, found: dict) -> dict:
    """The entry of a system that finds people, with `metres(first)` in the best matching."""
    scores = {"hungarian": metres(first), "nearest": metres(first - 0.1), "error_cm": error_cm}
    return {**scores, "people": {**NO_PARTS, **found}, "protocols": PROTOCOLS}


def summary_of(systems: dict) -> dict:
    """The summary of an evaluation of a LoCO."""
    made = {"predictor": "A", "autoencoder": "B(2)", "refiner": "some.file", "least_joints": 7, "least_stray": 0.3}
    counts = {"level": 2, "frames": 8, "joints": 1000, "joints_that_touch": 17, "frames_with_too_many_peaks": 2}
    return {"data": "crowd", **counts, "systems": systems, "made_of": made}


def people_cells(first: int) -> list[str]:
    digits = [0] * 3 + [1] * 6 + [2] * 3 + [1] * 4
    return [f"{first + i:.{d}f}" for i, d in enumerate(digits)]
