"""Tables as a reader of Markdown sees them."""

import copy

import pytest

from loco_jax.report import tables
from tests.support.summaries import POSTER, POSTER_LOCO, SUMMARY, people, people_cells, read, summary_of, system


def test_people_have_a_table_and_their_parts_another():
    nobody = {**people(0), **dict.fromkeys(("precision", "recall", "f1", "mpjpe_cm", "pa_mpjpe_cm"))}
    nobody |= {"widths": dict.fromkeys(nobody["widths"]), "named_twice": 0, "found": 0}
    nobody |= {name: {"median": None, "mean": None} for name in ("along_cm", "across_cm")}
    poses = ("sitting", "striding", "unknown")
    parts = {
        "by_distance": [
            {"metres": [0.0, 6.0], **people(20)},
            {"metres": [6.0, 10.0], **nobody},
            {"metres": [25.0, None], **people(40)},
        ],
        "by_height": [{"pixels": [20.0, 40.0], **people(31)}, {"pixels": [160.0, None], **people(32)}],
        "by_pose": [{"pose": p, **some} for p, some in zip(poses, (people(51), nobody, people(52)))],
        "by_crowding": [{"overlapping": "0", **people(60)}, {"overlapping": "2 or more", **people(80)}],
    }
    sides = {name: {"share": x, "joints": 7} for name, x in zip("abcd", (0.47, 0.5, None, 1.0))}
    systems = {
        name: system(0.5, 12.34, {**some, **parts}) for name, some in (("LoCO(2)", people(10)), ("none", nobody))
    }
    systems["LoCO(2)"]["own_side"] = sides
    text = tables.loco_table(summary_of(systems))
    _, rows, by, _ = read(text)
    assert rows[0][0] == "system" and rows[0][1:4] == ["there", "named", "found"] and rows[0][-1] == "own side"
    assert rows[1] == ["LoCO(2)", *people_cells(10), "47 / 50 / – / 100"]
    assert rows[2] == ["none", "0", "1", "0", *[""] * 14]
    assert by[0] == ["people of LoCO(2)", *rows[0][1:-1]]
    firsts = {"0 to 6 m": 20, "beyond 25 m": 40}
    later = {"20 to 40 px": 31, "from 160 px": 32, "sitting": 51, "unknown pose": 52}
    firsts_of_crowding = {"0 overlapping": 60, "2 or more overlapping": 80}
    want = {**firsts, **later, **firsts_of_crowding}
    assert by[1:] == [[name, *people_cells(first)] for name, first in want.items()]
    assert "7 / 7 / 7 / 7" in text


def test_locos_rows_and_the_posters():
    summary = summary_of({"LoCO(2)": system(0.5, 12.34, people(10)), "other": system(0.3, None, people(20))})
    text = tables.loco_table({**summary, "seconds_a_frame": {"one": 0.5, "two": 0.25}, "device": "cpu"})
    rows, *_ = read(text)
    assert rows[1] == ["LoCO(2)", "`hungarian`", *(f"{50 + i}.00" for i in range(9)), "12.3"]
    assert rows[2][2:] == [*(f"{40 + i}.00" for i in range(9)), ""]
    assert rows[3] == ["other", "`hungarian`", *(f"{30 + i}.00" for i in range(9)), ""]
    beside = {row[0].removeprefix("poster, JTA: "): row for row in rows if row[0].startswith("poster")}
    assert len(beside) == 12
    for name, figures in POSTER_LOCO.items():
        assert beside[name][1:-1] == ["`nearest`", *figures.split()]
    for part in (
        "A with B(2); +: refiner some.file, least_joints 7",
        "17 of 1,000",
    ):
        assert part in text
    summary["made_of"]["refiner"] = "picture"
    assert "; +: poses read from the picture, least_joints 7" in tables.loco_table(summary)
    for part in ("one 500 ms, two 250 ms; in all 0.75 s", "2 frames had more peaks", "8 frames"):
        assert part in text


def test_tracks_have_a_table():
    names = ("hota", "det_a", "ass_a", "loc_a", "idf1", "mota")
    shares = {name: (50 + i) / 100 for i, name in enumerate(names)}
    one = {**shares, "switches": 1234, "jitter_mm": 12.34, "error_cm": 5.67, "true_jitter_mm": 1.23, "true": 4321}
    other = {**one, "mota": -0.5, "jitter_mm": None, "error_cm": None}
    tracks = {"sequences": 2, "frames": 60, "fps": 3.0, "systems": {"LoCO(2)+": one, "true poses": other}}
    summary = summary_of({"LoCO(2)+": system(0.5, 12.34, people(10))})
    text = tables.loco_table({**summary, "tracks": tracks})
    rows = read(text)[-1]
    assert rows[0] == ["tracks", *"HOTA DetA AssA LocA IDF1 MOTA switches".split(), "jitter (mm)", "error (cm)"]
    assert rows[1] == ["LoCO(2)+", *(f"{50 + i}.0" for i in range(6)), "1,234", "12.3", "5.7"]
    assert rows[2] == ["true poses", *(f"{50 + i}.0" for i in range(5)), "-50.0", "1,234", "", ""]
    assert "60 frames in 2 sequences at 3 frames/s. 4,321 people" in text and "is 1.2." in text
    assert "sequences" not in tables.loco_table(summary)


def percents(first: float) -> list[str]:
    return [f"{first + i:.1f}" for i in range(9)]


def test_rows_have_the_right_numbers():
    rows, _ = read(tables.vha_table(SUMMARY))
    voxels = [f"{m} @{t} vx" for t in (0, 1, 2) for m in ("PR", "RE", "F1")]
    assert rows[0] == ["network", *voxels, "F1 @0.4 m", "F1 @0.8 m", "F1 @1.2 m", "error (cm)"]
    assert rows[1] == ["PatchVHA(2)", *percents(50), "61.2", "73.4", "85.6", "12.3"]
    assert rows[2] == ["PatchVHA(2), 5 % noise on the code", *percents(40), *[""] * 4]
    assert rows[3] == ["PatchVHA(2), 20 % noise on the code", *percents(30), *[""] * 4]
    assert rows[4] == ["PatchVHA(2), `nearest` matching", *percents(20), "61.2", "73.4", "85.6", ""]


@pytest.mark.parametrize("level", POSTER)
def test_the_posters_figures_stand_beside(level):
    rows, _ = read(tables.vha_table({**SUMMARY, "network": f"VHA({level})", "level": level}))
    figures = dict(zip(rows[0], rows[-1]))
    assert rows[-1][0] == f"poster, JTA: VHA({level})"
    assert " / ".join(figures[f"F1 @{t} vx"] for t in (0, 1, 2)) == POSTER[level]
    assert all(figures[f"{m} @{t} vx"] == "" for m in ("PR", "RE") for t in (0, 1, 2))


def test_errors_by_distance():
    text = tables.vha_table(SUMMARY)
    assert read(text)[1] == [
        ["distance", "joints", "recall @2 vx", "error (cm)"],
        ["0 to 10 m", "1,234", "98.7", "4.6"],
        ["20 to 25 m", "7", "0.0", ""],
    ]
    for part in ("crowd, demo scale, test split: mean over 1,024 frames", "mean is 0.123", "standard deviation 0.988"):
        assert part in text
    assert "max_peaks" not in text


def test_nothing_found_and_too_much_found():
    summary = {**copy.deepcopy(SUMMARY), "error_cm": None, "frames_with_too_many_peaks": 3}
    text = tables.vha_table(summary)
    assert read(text)[0][1][-1] == "" and "3 frames had more peaks than config.max_peaks" in text
    nobody = {**SUMMARY, "by_distance": [{"metres": [0.0, 10.0], "joints": 0, "recall": None, "error_cm": None}]}
    assert len(read(tables.vha_table(nobody))[1]) == 1


def test_tables_without_rows_and_with_one():
    assert tables.table(["a", "b"], []) == "| a | b |\n|---|--:|"
    assert tables.table(["name", "n"], [["x", "1,000"]]) == "\n".join(
        ["| name |     n |", "|------|------:|", "| x    | 1,000 |"]
    )


def test_on_jta_the_posters_figures_are_not_on_other_data():
    text = tables.vha_table({**SUMMARY, "data": "JTA, test split"})
    assert "on other data" not in text
