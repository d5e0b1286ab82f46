"""Summaries of evaluations as Markdown tables, with the figures of the authors' poster."""

from collections.abc import Mapping, Sequence
from typing import Any

# F1 in percent at 0, 1 and 2 voxels, by level (poster, "Compression levels").
POSTER_VHA = {1: (97.1, 98.4, 98.5), 2: (92.5, 97.0, 97.1), 3: (56.5, 90.3, 92.9)}

# Precision, recall and F1 in percent at 0.4, 0.8 and 1.2 m on JTA (poster, table of results).
POSTER_LOCO = {
    "Location Maps": ((5.80, 5.33, 5.42), (24.06, 21.65, 22.29), (41.43, 36.96, 38.26)),
    "Location Maps + refine": ((5.82, 5.89, 5.77), (23.28, 23.51, 23.08), (38.85, 39.17, 38.49)),
    "top-down: YOLOv3 + lifting": ((75.88, 28.36, 39.14), (92.85, 34.17, 47.38), (96.33, 35.33, 49.03)),
    "uncompressed volumetric heatmaps": ((25.37, 24.40, 24.47), (45.40, 43.11, 43.51), (55.55, 52.44, 53.08)),
    "LoCO(1)": ((48.10, 42.73, 44.76), (65.63, 58.58, 61.24), (72.44, 64.84, 67.70)),
    "LoCO(1)+": ((49.37, 43.45, 45.73), (66.87, 59.02, 62.02), (73.54, 65.07, 68.29)),
    "LoCO(2)": ((54.76, 46.94, 50.13), (70.67, 60.48, 64.62), (77.00, 65.92, 70.40)),
    "LoCO(2)+": ((55.37, 47.84, 50.82), (70.63, 60.94, 64.76), (76.81, 66.31, 70.44)),
    "LoCO(3)": ((48.18, 41.97, 44.49), (66.96, 58.22, 61.77), (74.43, 64.71, 68.65)),
    "LoCO(3)+": ((49.15, 42.84, 45.36), (67.16, 58.45, 61.92), (74.39, 64.76, 68.57)),
    "GT Location Maps": ((76.07, 64.83, 69.59),) * 3,
    "GT volumetric heatmaps": ((99.96, 99.96, 99.96), (99.99, 99.99, 99.99), (99.99, 99.99, 99.99)),
}

MEASURES = {"PR": "precision", "RE": "recall", "F1": "f1"}
PEOPLE_NOTE = (
    "A person is found if half of its joints are within 0.8 m. PR, RE and F1 of people are in percent. Twice is the "
    "number of people beyond the first who are named at a person's place in the picture, in percent. MPJPE (relative "
    "to the mid-hip) and PA-MPJPE (aligned) are mean errors in cm of the people found. Shoulders, hips and wrists are "
    "median widths divided by the true ones. Along and across the ray: median and mean errors in cm of joints matched "
    "within 1.2 m. Own side: the share in percent of shoulders / hips / wrists / ankles whose own heatmap is higher at "
    "their place than the heatmap of the other side's joint. Chance is 50."
)
VHA_THRESHOLDS = ("0 vx", "1 vx", "2 vx")
LOCO_THRESHOLDS = ("0.4 m", "0.8 m", "1.2 m")
VHA_HEADER = [
    "network", *(f"{m} @{t}" for t in VHA_THRESHOLDS for m in MEASURES), *(f"F1 @{t}" for t in LOCO_THRESHOLDS),
    "error (cm)",
]  # fmt: skip
PEOPLE_MEASURES = (
    "there", "named", "found", "PR", "RE", "F1", "twice", "MPJPE", "PA-MPJPE", "shoulders", "hips", "wrists",
    "along", "along, mean", "across", "across, mean",
)  # fmt: skip
PEOPLE_HEADER = ["system", *PEOPLE_MEASURES, "own side"]
PEOPLE_GROUPINGS = ("by_distance", "by_height", "by_pose", "by_crowding")
LOCO_HEADER = ["system", "matching", *(f"{m} @{t}" for t in LOCO_THRESHOLDS for m in MEASURES), "error (cm)"]
TRACKS_HEADER = [
    "tracks", "HOTA", "DetA", "AssA", "LocA", "IDF1", "MOTA", "switches", "jitter (mm)", "error (cm)",
]  # fmt: skip
PROTOCOL_HEADER = [
    "system", "group", "people", "matched",
    *(
        f"{score} {kind}"
        for kind in ("rel.", "bones", "abs.", "abs. bones") for score in ("3DPCK", "matched", "AUC", "MPJPE")
    ),
]  # fmt: skip
PROTOCOL_NOTE = (
    "In the protocols of MuPoTS-3D and CMU Panoptic: 3DPCK at 15 cm and AUC up to it, of all people and (matched) of "
    "those who are matched in the picture, in percent; MPJPE of matched people in mm. Rel.: relative to the mid-hip. "
    "Bones: that, with the true lengths of bones. Abs.: in camera coordinates, without and with those lengths. The "
    "mean is over the groups."
)
_UNITS = ((3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "us"))  # of time
REFINER_HEADER = ["joints", "number", "error before (cm)", "error after (cm)"]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up. The first column is text, the others are numbers."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(cells):
        return "| " + " | ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths))) + " |"

    rule = "|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])


def number(value: float | None, digits: int = 1, times: float = 1.0) -> str:
    """The text of `times * value` in a cell; "" for None."""
    return "" if value is None else f"{times * value:.{digits}f}"


def duration(seconds: float) -> str:
    """A time as text, with three digits, in h, min, s, ms or us."""
    size, unit = next((unit for unit in _UNITS if seconds >= unit[0]), _UNITS[-1])
    return f"{seconds / size:.3g} {unit}"


def vha_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """Rows under `VHA_HEADER`: a VHA's scores, by noise on the code and by matching."""
    name = summary["network"]

    def row(label, scores, error=None):
        voxels = [number(scores[t][m], 1, 100) for t in VHA_THRESHOLDS for m in MEASURES.values()]
        metres = [number(scores[t]["f1"], 1, 100) if t in scores else "" for t in LOCO_THRESHOLDS]
        return [label, *voxels, *metres, number(error)]

    rows = []
    for noise, scores in summary["scores"]["hungarian"].items():
        part = float(noise.split()[1])
        label = name if part == 0 else f"{name}, {100 * part:.0f} % noise on the code"
        rows.append(row(label, scores, summary["error_cm"] if part == 0 else None))
    rows.append(row(f"{name}, `nearest` matching", summary["scores"]["nearest"]["noise 0"]))
    return rows


def vha_poster_row(level: int) -> list[str]:
    """The poster's row under `VHA_HEADER`."""
    return [f"VHA({level})", *(x for f in POSTER_VHA[level] for x in ("", "", f"{f:.1f}")), *[""] * 4]


def vha_table(summary: Mapping[str, Any]) -> str:
    """A VHA's scores, the poster's, and errors by distance."""
    bands = [
        ["{:g} to {:g} m".format(*b["metres"]), f"{b['joints']:,}", number(b["recall"], 1, 100), number(b["error_cm"])]
        for b in summary["by_distance"]
        if b["joints"]
    ]
    where = "between" if summary.get("subvoxel", True) else "at whole"  # results of 1.0.0 lack it
    lines = [
        table(VHA_HEADER, [*vha_rows(summary), _by_poster(vha_poster_row(summary["level"]))]),
        "",
        f"{_about_scores(summary)} In metres: {where} voxels. "
        "Error: mean of joints found within 2 voxels. "
        f"The code's mean is {summary['code']['mean']:.3g}, its standard deviation {summary['code']['std']:.3g}.",
        "",
        table(["distance", "joints", "recall @2 vx", "error (cm)"], bands),
    ]
    too_many = _too_many(summary)
    return "\n".join([*lines, *([""] if too_many else []), *too_many])


def _about_scores(summary: Mapping[str, Any]) -> str:
    data = summary.get("data", "")
    other = "" if data.startswith("JTA") else " The poster's figures are on other data: JTA."
    return f"{data}: mean over {summary['frames']:,} frames, in percent.{other}"


def _by_poster(row: Sequence[str]) -> list[str]:
    return [f"poster, JTA: {row[0]}", *row[1:]]


def _too_many(summary: Mapping[str, Any]) -> list[str]:
    count = summary.get("frames_with_too_many_peaks", 0)
    return [f"{count} frames had more peaks than config.max_peaks: only the best are kept."] if count else []


def loco_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """Rows under `LOCO_HEADER`: a LoCO's scores, by system and matching."""
    rows = []
    for system, entry in summary["systems"].items():
        for matching, error in (("hungarian", number(entry["error_cm"])), ("nearest", "")):
            scores = entry[matching]
            values = [f"{100 * scores[t][m]:.2f}" for t in LOCO_THRESHOLDS for m in MEASURES.values()]
            rows.append([system, f"`{matching}`", *values, error])
    return rows


def loco_poster_rows() -> list[list[str]]:
    """The poster's rows under `LOCO_HEADER`."""
    return [
        [system, "`nearest`", *(f"{v:.2f}" for t in scores for v in t), ""] for system, scores in POSTER_LOCO.items()
    ]


def people_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """Rows under `PEOPLE_HEADER`: how well each system of a LoCO finds people."""
    return [
        [
            system,
            *_people_cells(entry["people"]),
            " / ".join(number(side["share"], 0, 100) or "–" for side in entry.get("own_side", {}).values()),
        ]
        for system, entry in summary["systems"].items()
        if "by_distance" in entry.get("people", {})  # which results of earlier versions lack
    ]


def people_parts_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """The first system's people, by each of `PEOPLE_GROUPINGS`: the part's name, and `PEOPLE_MEASURES`."""
    found = next(iter(summary["systems"].values()))["people"]
    parts = [part for grouping in PEOPLE_GROUPINGS for part in found[grouping] if part["true"]]
    return [[_part_name(part), *_people_cells(part)] for part in parts]


def protocol_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """Rows under `PROTOCOL_HEADER`: each system's mean over groups, and with several groups the network's in each."""
    rows, first = [], next(iter(summary["systems"]))
    for system, entry in summary["systems"].items():
        found = entry["protocols"]
        several = system in (first, f"{first}+") and len(found["by_group"]) > 1
        groups = [("mean", found), *((g["name"], g) for g in found["by_group"] if several)]
        rows += [[system, name, *_protocol_cells(scores)] for name, scores in groups]
    return rows


def _protocol_cells(scores: Mapping[str, Any]) -> list[str]:
    cells = [f"{scores[name]:,}" for name in ("people", "matched")]
    for kind in ("relative", "bones", "absolute", "absolute_bones"):
        cells += [number(scores[kind][name], 1, 100) for name in ("pck_all", "pck_matched", "auc_all")]
        cells.append(number(scores[kind]["mpjpe_mm"]))
    return cells


def _part_name(part: Mapping[str, Any]) -> str:
    if "pose" in part:
        return f"{part['pose']} pose" if part["pose"] == "unknown" else part["pose"]
    if "overlapping" in part:
        return f"{part['overlapping']} overlapping"
    (low, high), unit, beyond = (part["metres"], "m", "beyond") if "metres" in part else (part["pixels"], "px", "from")
    return f"{beyond} {low:g} {unit}" if high is None else f"{low:g} to {high:g} {unit}"


def _people_cells(found: Mapping[str, Any]) -> list[str]:
    twice = found["named_twice"] / found["true"] if found["true"] else None
    errors = [found[name][kind] for name in ("along_cm", "across_cm") for kind in ("median", "mean")]
    return [
        *(f"{found[name]:,}" for name in ("true", "predicted", "found")),
        *(number(value, 1, 100) for value in (found["precision"], found["recall"], found["f1"], twice)),
        *(number(value) for value in (found["mpjpe_cm"], found["pa_mpjpe_cm"])),
        *(number(value, 2) for value in found["widths"].values()),
        *(number(value) for value in errors),
    ]


def loco_table(summary: Mapping[str, Any]) -> str:
    """Scores of a LoCO or of a system like it, the poster's, how well it finds people, and its times."""
    first, about, made = next(iter(summary["systems"])), PEOPLE_NOTE, summary["made_of"]
    if sides := summary["systems"][first].get("own_side"):
        joints = " / ".join(f"{side['joints']:,}" for side in sides.values())
        about += f" Joints that count are at least 1.5 voxels apart: {joints}."
    lines = [
        table(LOCO_HEADER, [*loco_rows(summary), *map(_by_poster, loco_poster_rows())]),
        "",
        f"{_about_scores(summary)} Error: mean distance of joints matched within 1.2 m.",
        *("", table(PEOPLE_HEADER, people_rows(summary)), "", about, ""),
        *(table([f"people of {first}", *PEOPLE_MEASURES], people_parts_rows(summary)), ""),
        "By the true person's distance, height in the picture and pose, and by how many other people's boxes "
        "overlap its own.",
        *("", table(PROTOCOL_HEADER, protocol_rows(summary)), "", PROTOCOL_NOTE, ""),
    ]
    if "tracks" in summary:
        lines += ["", tracks_table(summary["tracks"]), ""]
    source = "poses read from the picture" if made["refiner"] == "picture" else f"refiner {made['refiner']}"
    refiner = f"; +: {source}, least_joints {made['least_joints']}, least_stray {made['least_stray']:g}"
    autoencoder = f" with {made['autoencoder']}" if "autoencoder" in made else ""
    lines += [
        f"{first} is {made['predictor']}{autoencoder}{refiner if made['refiner'] else ''}.",
        f"{summary['joints_that_touch']:,} of {summary['joints']:,} true joints are at most a voxel from another of"
        " the same type. No heatmap of this grid tells those apart, which limits the GT rows.",
    ]
    if "seconds_a_frame" in summary:
        seconds = summary["seconds_a_frame"]
        stages = ", ".join(f"{stage} {1000 * s:.3g} ms" for stage, s in seconds.items())
        lines.append(f"A frame on this machine ({summary['device']}): {stages}; in all {sum(seconds.values()):.3g} s.")
    return "\n".join([*lines, *_too_many(summary)])


def tracks_table(tracks: Mapping[str, Any]) -> str:
    """Scores of tracks, of all systems."""
    first = next(iter(tracks["systems"].values()))
    rate = f" at {tracks['fps']:g} frames/s" if tracks["fps"] else ""
    jitter = number(first["true_jitter_mm"]) or "–"
    note = (
        f"{tracks['frames']:,} frames in {tracks['sequences']:,} sequence{'s' * (tracks['sequences'] != 1)}{rate}. "
        f"{first['true']:,} people are in view, counted in each frame. HOTA to MOTA are in percent. Jitter: mean "
        "norm of a joint's second difference "
        f"in mm / frame². That of the truth is {jitter}. Error: mean distance of joints of people matched within 0.8 m."
    )
    return f"{table(TRACKS_HEADER, tracks_rows(tracks))}\n\n{note}"


def tracks_rows(tracks: Mapping[str, Any]) -> list[list[str]]:
    """Rows under `TRACKS_HEADER`, one for each system."""
    return [
        [
            system,
            *(number(s[name], 1, 100) for name in ("hota", "det_a", "ass_a", "loc_a", "idf1", "mota")),
            f"{s['switches']:,}",
            number(s["jitter_mm"]),
            number(s["error_cm"]),
        ]
        for system, s in tracks["systems"].items()
    ]


location_maps_table = volumetric_table = loco_table


def top_down_table(summary: Mapping[str, Any]) -> str:
    """As `loco_table`, and how well the detector and the crops' 2D joints are found."""
    cells = [
        ["AP50 of boxes", number(summary["ap50"], 1, 100), f"{summary['boxes']:,} boxes"],
        ["PCK@0.2 in true boxes", number(summary["pck"], 1, 100), f"{summary['pck_joints']:,} joints"],
    ]
    note = (
        "AP50: average precision of boxes in percent; they are found if their intersection over union is 0.5 or more. "
        "PCK@0.2: the share in percent of joints that are nearer to their true place in the picture than a fifth of "
        "the torso, from the left shoulder to the right hip."
    )
    return f"{loco_table(summary)}\n\n{table(['top-down', 'value', 'of'], cells)}\n\n{note}"


def refiner_table(summary: Mapping[str, Any]) -> str:
    """Errors of a refiner's joints before and after refinement, by the kind of mistake."""
    text = f"Mean over {summary['frames']:,} frames of {summary.get('data', '')}."
    return f"{table(REFINER_HEADER, refiner_rows(summary))}\n\n{text}"


def refiner_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """Rows under `REFINER_HEADER`."""
    before, after = summary["before_cm"], summary["after_cm"]
    rows = [[kind, f"{n:,}", number(before[kind]), number(after[kind])] for kind, n in summary["joints"].items()]
    return [*rows, ["of people without any mistake", "", "0.0", number(summary["clean_cm"])]]


def trunk_table(summary: Mapping[str, Any]) -> str:
    """What can be read from a trunk's features, and how well."""
    names = {
        "pose_cm": "joints relative to the mid-hip, mean error (cm)",
        "distance_percent": "distance, median error (%)",
        "up_degrees": "the world's up, median error (degrees)",
        "height_percent": "the camera's height, median error (%)",
    }
    values = {text: summary.get(name) for name, text in names.items()}
    values |= {f"right and left told, {name} (%)": share for name, share in summary["sides"].items()}
    rows = [[text, number(value)] for text, value in values.items() if value is not None]
    text = f"Over {summary['people']:,} people in {summary['frames']:,} frames of {summary.get('data', '')}."
    return f"{table(['trunk', 'value'], rows)}\n\n{text}"
