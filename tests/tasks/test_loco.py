"""LoCO as a whole: with the true code people come back, and training leaves the autoencoder alone."""

import functools
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from loco_jax import experiment, export, report, train, weights
from loco_jax import step as training
from loco_jax.configs import loco as loco_config
from loco_jax.configs import refiner as refiner_config
from loco_jax.data import datasets, streams
from loco_jax.geometry import skeleton
from loco_jax.geometry.camera import JTA, project
from loco_jax.models import patch_vha
from loco_jax.models.refiner import Refiner
from loco_jax.ops import distributed
from loco_jax.pose import association, metrics, refinement, tuning
from loco_jax.pose.people import Points, find_people
from loco_jax.predict.predictor import load_predictor
from loco_jax.step import train_step
from loco_jax.tasks import loco, pretrained, sides
from loco_jax.tasks.people import GROUND_TRUTH, METRES, SUBVOXEL


def _refiner():
    return weights.read(
        "refiner", "released-refiner", jax.eval_shape(Refiner().init, jax.random.key(0), np.zeros((1, 39)))
    )


@functools.lru_cache
def _config():
    """That of the released weights: what suits them, and one frame a step of the scale's own scenes."""
    config = loco_config.get_config(2, "variant=patch,trunk=compact,scale=demo")
    config.vha = "released"
    for section in ("people", "refine"):
        config[section].update(weights.config_of("released").get(section, {}))
    config.data.batch_size = 1
    config.data.crowd.update({"min_people": 0, "mean_people": 0.0, "most_people": 0})
    return config


@functools.lru_cache
def _batch():
    sharding = NamedSharding(distributed.make_mesh(1), PartitionSpec("batch"))
    return next(streams.CrowdStream(streams.crowd_of(_config()), "validation", 1, sharding, pictures=True))


@pytest.fixture(scope="module")
def scored():
    """What the released weights find in a scene: the summary and the picture's size."""
    task = experiment.create_task(_config())
    params, _ = weights.load(weights.path_of("released"))
    predict = jax.jit(lambda params, frames: task.predict(params, frames, jax.random.key(0), thorough=True))
    predicted, frames = jax.device_get((predict(params, _batch()), _batch()))
    return task, task.summary(task.score(predicted, frames)), frames, predicted


def test_true_heatmaps_and_true_codes_give_the_people_back(scored):
    _, summary, _, _ = scored
    systems = summary["systems"]
    assert systems[GROUND_TRUTH]["hungarian"]["0.4 m"]["f1"] > 0.97
    assert systems[SUBVOXEL]["error_cm"] < 3 < systems[GROUND_TRUTH]["error_cm"]
    assert systems["PatchVHA(2), true code"]["hungarian"]["0.8 m"]["f1"] > 0.7


def test_the_table_has_every_system_and_the_posters(scored):
    task, summary, _, _ = scored
    assert list(summary["systems"])[:2] == ["LoCO(2)", "LoCO(2)+"]
    table = report.table_of("loco", summary)
    for words in ("LoCO(2)+", "poster, JTA: LoCO(2)", "54.76", "`nearest`", "people"):
        assert words in table


def test_true_codes_and_heatmaps_give_whole_people(scored):
    _, summary, frames, _ = scored
    people = {name: entry["people"] for name, entry in summary["systems"].items()}
    there = people[GROUND_TRUTH]["true"]
    assert 0 < there <= frames.present.shape[1]
    for name in (GROUND_TRUTH, SUBVOXEL, "PatchVHA(2), true code"):
        assert people[name]["found"] >= there - 1 and people[name]["predicted"] <= there + 1, name


def test_people_are_measured(scored):
    _, summary, _, _ = scored
    perfect = summary["systems"][SUBVOXEL]["people"]
    assert perfect["found"] >= perfect["true"] - 1 and perfect["mpjpe_cm"] < 8
    assert all(0.9 < width < 1.1 for width in perfect["widths"].values())
    for system in summary["systems"].values():
        found = system["people"]
        assert found["recall"] == found["found"] / found["true"]
        assert found["precision"] == (found["found"] / found["predicted"] if found["predicted"] else None)
        for grouping in ("by_distance", "by_height", "by_pose", "by_crowding"):
            assert sum(part["true"] for part in found[grouping]) == found["true"] == perfect["true"]


def test_own_side_is_that_of_whole_heatmaps(scored):
    """Joint by joint, in the volumes that the networks make."""
    task, summary, frames, _ = scored
    params, _ = weights.load(weights.path_of("released"))
    frame = jax.tree.map(lambda x: np.asarray(x)[0], frames)
    codes = {
        "LoCO(2)": jax.jit(task.look_at)(params, frame.image, frame.camera)[0],
        "PatchVHA(2), true code": jax.jit(lambda p: task.vha.encode(p["vha"], frame._replace(image=None)))(params),
    }
    size, voxels, present = task.vha.volume.shape[:2], *map(np.asarray, task.vha.targets(frame))
    decode = jax.jit(lambda p, code: task.vha.network.apply(p, code, size, method="decode"))
    top = np.array(task.vha.volume.shape) - 1
    assert sum("own_side" in system for system in summary["systems"].values()) == 2
    for name, code in codes.items():
        heatmaps = np.asarray(decode(params["vha"], code[None]))[0]
        for pair, (right, left) in skeleton.PAIRS.items():
            won = []
            for p in range(len(present)):
                apart = np.hypot(*(voxels[p, right] - voxels[p, left])[:2])
                if present[p, right] and present[p, left] and apart >= 1.5:
                    for own, other in ((right, left), (left, right)):
                        places = (np.clip(np.round(voxels[p, j]), 0, top).astype(int) for j in (own, other))
                        here, there = (heatmaps[own, *place] for place in places)
                        won.append(1.0 if here > there else 0.5 if here == there else 0.0)
            want = {"share": pytest.approx(np.mean(won)) if won else None, "joints": len(won)}
            assert summary["systems"][name]["own_side"][pair] == want, (name, pair)
    # The true code's heatmaps know the sides.
    sides = summary["systems"]["PatchVHA(2), true code"]["own_side"].values()
    assert sum(side["joints"] for side in sides) > 0
    assert all(side["share"] > 0.7 for side in sides if side["joints"])


def test_the_error_of_sides_is_that_of_whole_heatmaps():
    """Joint by joint, in the logits of all voxels; the true code has little of it, that of mirrored people much."""
    config = _config().copy_and_resolve_references()
    config.predictor.side_weight = 1.0
    task = experiment.create_task(config)
    params = weights.read("vha", "released", jax.eval_shape(task.vha.init, jax.random.key(0)))
    frame = jax.tree.map(lambda x: np.asarray(x)[0], _batch()._replace(image=None))
    mirrored = frame._replace(joints=frame.joints[:, list(skeleton.MIRROR)])
    network, (voxels, present) = task.vha.network, map(np.asarray, task.vha.targets(frame))
    top, errors = np.array(task.vha.volume.shape) - 1, []
    for people in (frame, mirrored):
        code = jax.jit(task.vha.encode)(params, people)[None]
        features = network.apply(params, code, method="decode_features")
        of = functools.partial(sides.error, network, volume=task.vha.volume)
        found = float(jax.jit(of)(params, features=features, voxels=voxels[None], present=present[None]))
        cells = network.apply(params, code, method="decode_cells")
        logits = np.asarray(patch_vha.unfold(cells, 2**network.level))[0]
        want = []
        for right, left in ((j, k) for j, k in enumerate(skeleton.MIRROR) if j < k):
            for p in range(len(present)):
                apart = np.hypot(*(voxels[p, right] - voxels[p, left])[:2])
                if not (present[p, right] and present[p, left] and apart >= 1.5):
                    continue
                at = {j: tuple(np.clip(np.round(voxels[p, j]), 0, top).astype(int)) for j in (right, left)}
                wins = [logits[(j, *at[j])] - logits[(j, *at[k])] for j, k in ((right, left), (left, right))]
                wins += [logits[(j, *at[j])] - logits[(k, *at[j])] for j, k in ((right, left), (left, right))]
                want.append(np.mean(np.log1p(np.exp(-np.array(wins)))))
        assert want and found == pytest.approx(np.mean(want), rel=1e-4)
        errors.append(found)
    assert errors[0] < 0.5 < np.log(2) < errors[1]


def test_the_headline_has_numbers_only(scored):
    task, summary, _, predicted = scored
    headline = task.headline(summary)
    found = summary["systems"]["LoCO(2)+"]["people"]
    assert headline["people_recall"] == found["found"] / found["true"]
    assert headline["named_twice"] == found["named_twice"] / found["true"]
    shares = [share for name, share in headline.items() if name.startswith("side_")]
    assert headline["side"] == pytest.approx(np.mean(shares)) and all(0 <= share <= 1 for share in shares)
    assert all(isinstance(value, float) for value in headline.values())
    # Of an empty frame most is unknown, and left out.
    empty = _batch()._replace(present=np.zeros_like(_batch().present))
    nothing = predicted._replace(
        true_present=np.zeros_like(predicted.true_present),
        side_joints=np.zeros_like(predicted.side_joints),
        own_side=jax.tree.map(np.zeros_like, predicted.own_side),
    )
    headline = task.headline(task.summary(task.score(nothing, jax.device_get(empty))))
    assert {"f1_0.8m", "code_loss", "people_precision"} == set(headline) - {"f1_0.4m", "f1_1.2m"}


def test_frames_are_ranked_by_what_is_drawn(scored):
    task, _, frames, predicted = scored
    (record,) = task.score(predicted, frames)
    cloud = (x[0] for x in predicted.systems["LoCO(2)+"])
    rows, true = metrics.cloud_rows(*cloud), metrics.people_rows(frames.joints[0], predicted.true_present[0])
    assert task.rank(record) == metrics.joint_scores(rows, true, 0.8).f1
    systems = {name: value for name, value in predicted.systems.items() if name != "LoCO(2)+"}
    (plain,) = task.score(predicted._replace(systems=systems), frames)
    assert task.rank(plain) == plain.scores["LoCO(2)", "hungarian", "0.8 m"].f1
    assert task.ranked_by == "F1 @0.8 m"


def test_predict_names_whom_the_scores_are_of(scored):
    """Those whom its own config says; or of the score that is given."""
    _, _, frames, predicted = scored
    joints, known = (np.asarray(x[0]) for x in predicted.people["LoCO(2)+"])
    camera = jax.tree.map(lambda x: float(x[0]), frames.camera)
    ((named, scores),) = load_predictor().find(frames.image[:1], [camera])
    np.testing.assert_allclose(named, joints[known[:, 0]], atol=1e-3)
    means = scores.mean(axis=1)
    assert len(named) > 1 and means.min() >= _config().people.min_score
    ((surer, _),) = load_predictor(min_score=float(means.min()) + 1e-4).find(frames.image[:1], [camera])
    np.testing.assert_allclose(surer, named[means > means.min()], atol=1e-3)
    with pytest.raises(ValueError, match="min_score"):
        load_predictor(min_score=1.5)


def test_all_joints_count_whoever_is_named(scored):
    """The published protocol counts every peak."""
    _, _, _, predicted = scored
    heads = (predicted.systems["LoCO(2)"][1] == 0) & predicted.systems["LoCO(2)"][2]
    assert heads.sum() > predicted.people["LoCO(2)"][1][..., 0].sum()


def test_every_stage_is_timed(scored):
    task, _, frames, _ = scored
    params, _ = weights.load(weights.path_of("released"))
    seconds = task.stage_seconds(params, frames)
    assert list(seconds) == ["picture to code", "code to points", "points to people", "refinement"]
    assert all(s > 0 for s in seconds.values())


def test_people_have_the_poses_that_are_read_at_their_places(scored):
    """Put together by hand, person by person, from what the network reads."""
    task, _, frames, predicted = scored
    params, _ = weights.load(weights.path_of("released"))
    frame = jax.tree.map(lambda x: x[0], frames)
    code, features = jax.jit(task.look_at)(params, frame.image, frame.camera)
    points = jax.jit(functools.partial(task.points_of_code, subvoxel=True))(params, code, frame.camera)
    found = jax.device_get(find_people(points))
    trunk = [skeleton.JOINTS.index("neck"), *skeleton.PAIRS["shoulders"], *skeleton.PAIRS["hips"]]
    read = jax.jit(lambda place: task.network.apply(params["predictor"], features, place, method="read_poses"))
    want = []
    for joints, scores in zip(found.joints.astype(float), found.scores):
        known = np.flatnonzero(scores)
        if scores[0] > 0 and len(known) < task.least_joints:
            want.append(joints)
        elif scores[0] > 0:
            seen = [j for j in trunk if j in known]
            middle = project(frame.camera, joints[seen] if seen else joints[:1] + [0, 0.5, 0]).mean(axis=0)
            offsets = np.asarray(read(np.asarray(middle, np.float32)[None, None]))[0, 0, :42].reshape(14, 3)
            root = joints[0]
            for _ in range(20):
                z = root / np.linalg.norm(root)
                x = np.cross([0, 1, 0], z) / np.linalg.norm(np.cross([0, 1, 0], z))
                pose = offsets @ [x, np.cross(z, x), z]
                root = np.average((joints - pose)[known], axis=0, weights=scores[known])
            want.append(pose + root)
    kept = [joints[0] for joints in predicted.people["LoCO(2)+"][:1]][0]
    kept = kept[kept.any(axis=(1, 2))]
    assert len(kept) > 1
    for joints in kept:
        assert min(np.abs(joints - other).max() for other in want) < 0.02


def test_a_refiner_counts_where_there_is_one(scored):
    """Weights of before hold one; a published network needs one, as it reads no poses."""
    task, _, _, _ = scored
    points = _standing_apart(4, np.random.default_rng(0)).swapaxes(0, 1)
    found = association.group(points, np.full((14, 4), 0.5, np.float32))
    better = task.refine({"refiner": _refiner()}, found, None, JTA)
    np.testing.assert_array_equal(better.joints, refinement.refine(_refiner(), found).joints)
    for change, word in (({"trunk": "inception"}, "reads no poses"), ({"teaching_weight": 0.0}, "teaching_weight")):
        config = _config().copy_and_resolve_references()
        config.predictor.update({"teaching_weight": 0.0, **change})
        with pytest.raises(ValueError, match=f"config.refiner=picture needs .*{word}"):
            experiment.create_task(config)


def test_a_picture_is_drawn(scored):
    task, _, frames, predicted = scored
    figure = report.picture(task, predicted, frames, 0, "a frame")
    assert len(figure.axes) == 2


def _jta(folder):
    """The config of the miniature's pictures, with as many people a frame as in the crowd."""
    config = _config().copy_and_resolve_references()
    config.data.source, config.data.dir, config.data.max_people = "jta", str(folder / "data"), 8
    return config


def test_training_changes_the_predictor_and_nothing_else(jta_with_pictures):
    """Two steps on JTA of a small predictor on the released autoencoder."""
    config = _jta(jta_with_pictures[0])
    config.ema = 0.5
    config.optimizer.name = "adam"
    config.predictor.update({"width": 8, "blocks": 1})
    task, optimizer = experiment.create_task(config), training.make_optimizer(config)
    mesh = distributed.make_mesh(1)
    batch = next(datasets.of(config).training_stream(NamedSharding(mesh, PartitionSpec("batch"))))
    assert batch.present.any()
    # Placed as a step leaves it, so that the second step is not compiled anew.
    state = jax.device_put(training.init_state(task, optimizer, config), NamedSharding(mesh, PartitionSpec()))
    step = jax.jit(functools.partial(train_step, task=task, optimizer=optimizer, stage=0, seed=0, ema=config.ema))
    released, _ = weights.load(weights.path_of("released"))
    before = jax.device_get(state.params)
    state, _ = step(step(state, batch)[0], batch)  # the first one's rate is zero
    after = jax.device_get(state.params)
    for name in before:
        same = jax.tree.map(lambda a, b: bool((a == b).all()), before[name], after[name])
        # Of what is trained nearly everything moves: what saw no gradient yet may stay.
        moved = 1 - np.mean(jax.tree.leaves(same))
        assert moved == 0 if name in task.frozen else moved > 0.9, name
    # The average follows: after two steps it is between where they began and where they are.
    first, now, average = (
        x["predictor"]["params"]["head"]["Dense_0"]["bias"] for x in (before, after, jax.device_get(state.ema))
    )
    assert (np.abs(average - first) <= np.abs(now - first) + 1e-7).all() and (average != first).any()
    jax.tree.map(np.testing.assert_array_equal, state.ema["vha"], before["vha"])
    # It began with the released autoencoder, and has no moments for it.
    np.testing.assert_array_equal(jax.tree.leaves(after["vha"])[0], jax.tree.leaves(released["vha"])[0])
    frozen, trained = (sum(x.size for x in jax.tree.leaves(before[name])) for name in ("vha", "predictor"))
    assert sum(x.size for x in jax.tree.leaves(state.opt_state)) < 2.1 * trained + frozen / 2


def test_pictures_of_another_size_than_the_volumes_are_told(jta_with_pictures):
    config = _jta(jta_with_pictures[0])
    config.volume.image_size = (240, 480)
    sharding = NamedSharding(distributed.make_mesh(1), PartitionSpec("batch"))
    with pytest.raises(ValueError, match="270 x 480 .* config.volume.image_size"):
        datasets.of(config).training_stream(sharding)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"trunk": "resnet"}, "inception, compact"),
        (
            {"code_weight": 0.0, "heatmap_weight": 0.0, "side_weight": 0.0},
            "not be negative, nor code_weight and heatmap_weight both 0",
        ),
    ],
)
def test_configs_that_cannot_be(change, word):
    config = _config().copy_and_resolve_references()
    config.predictor.update(change)
    with pytest.raises(ValueError, match=word):
        experiment.create_task(config)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"volume": {"stride": 4}}, "config.volume.stride=4 must be 8"),
        ({"data": {"pictures": False}}, "config.data.pictures must be True"),
        ({"predictor": {"width": 0}}, "width and blocks"),
        ({"refine": {"least_joints": 15}}, "config.refine"),
        ({"people": {"min_score": 2.0}}, "config.people: want min_score and overlap of 0 to 1"),
    ],
)
def test_fields_that_do_not_go_together(change, word):
    config = _config().copy_and_resolve_references()
    config.update(change)
    with pytest.raises(ValueError, match=word):
        experiment.create_task(config)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"vha": "nowhere"}, "config.vha=nowhere: .*no such file.*\n.*configs/vha2.py"),
        (
            {"volume": {"max_distance": 50.0}},
            "config.vha=released: trained for something else: volume.max_distance is 25.0 there",
        ),
        ({"subvoxel": False}, "subvoxel is True there, False here"),
    ],
)
def test_an_autoencoder_that_will_not_do_is_told_before_anything_is_made(change, word, tmp_path):
    config = _config().copy_and_resolve_references()
    config.update(change)
    with pytest.raises(weights.WeightsError, match=word):
        train.train(config, str(tmp_path / "run"), say=lambda _: None)
    assert not (tmp_path / "run").exists()


def test_a_trunk_that_will_not_do_is_told_before_anything_is_made(tmp_path):
    config = _config().copy_and_resolve_references()
    config.predictor.trunk_weights = str(tmp_path / "trunk")
    for kind, params, word in (
        ("inception", {"params": {"x": np.zeros(3)}}, "holds weights of kind 'inception', not trunk"),
        ("trunk", {"params": {"x": np.zeros(3)}}, "not the weights of this network:.*missing params/"),
    ):
        weights.save(tmp_path / "trunk", params, {"kind": kind})
        with pytest.raises(weights.WeightsError, match="(?s)config.predictor.trunk_weights=.*" + word):
            train.train(config, str(tmp_path / "run"), say=lambda _: None)
    assert not (tmp_path / "run").exists()


def test_weights_to_be_scored_say_what_suits_them(tmp_path):
    """What they say counts, what they do not say is the command's."""
    config = _config().copy_and_resolve_references()
    config.people.update({"min_score": 0.11, "overlap": 0.12})
    config.refine.update({"least_joints": 4, "least_stray": 0.13})
    task = experiment.create_task(config)
    says = {"people": {"min_score": 0.31, "overlap": 0.32}, "refine": {"least_joints": 5, "least_stray": 0.33}}
    (tmp_path / "run").mkdir()
    for content in (says, {"people": says["people"]}, {"refine": says["refine"]}, {}):
        weights.save(tmp_path / "file", {"x": np.ones(2)}, {"kind": "loco", "config": content})
        (tmp_path / "run" / "config.json").write_text(json.dumps(content))
        for source in ("file", "run"):
            found = experiment.with_parts_of(task, str(tmp_path / source))
            assert found.kept == ((0.31, 0.32) if "people" in content else (0.11, 0.12))
            rules = found.least_joints, found.least_stray
            assert rules == ((5, 0.33) if "refine" in content else (4, 0.13))
    # Nor does what they say count in place of what the user has set.
    weights.save(tmp_path / "file", {"refiner": {"x": np.ones(2)}}, {"kind": "loco", "config": says})
    source = str(tmp_path / "file")
    found = experiment.with_parts_of(task, source)
    assert (found.refiner_weights, found.kept, found.least_joints, found.least_stray) == (source, (0.31, 0.32), 5, 0.33)
    found = experiment.with_parts_of(
        task, source, given=["refiner", "people.min_score", "refine.least_stray", "data.batch_size"]
    )
    assert found.refiner_weights == task.refiner_weights == loco.PICTURE
    assert (found.kept, found.least_joints, found.least_stray) == ((0.11, 0.32), 5, 0.13)
    found = experiment.with_parts_of(task, source, given=["people.overlap", "refine.least_joints"])
    assert (found.refiner_weights, found.kept) == (source, (0.31, 0.12))
    assert (found.least_joints, found.least_stray) == (4, 0.33)
    bad = {"people": {"min_score": 3.0, "overlap": 0.1}}
    weights.save(tmp_path / "file", {"x": np.ones(2)}, {"kind": "loco", "config": bad})
    with pytest.raises(weights.WeightsError, match="file: its config is not valid: config.people: want min_score"):
        experiment.with_parts_of(task, str(tmp_path / "file"))


def test_weights_of_another_network_name_its_tensors(tmp_path, toy_frames):
    """A run's folder as well as a file: not one of the run's checkpoints is called damaged for it."""
    config = refiner_config.get_config("scale=demo")
    config.steps, config.eval_every, config.quiet = 1, 0, True
    config.eval_frames = config.data.batch_size = 1
    train.train(config, str(tmp_path), say=lambda _: None)
    like = {"params": {"Dense_0": {"kernel": np.zeros((39, 64)), "bias": np.zeros(128)}, "Other": np.zeros(3)}}
    with pytest.raises(weights.WeightsError) as error:
        weights.read("refiner", str(tmp_path), like)
    for line in ("missing params/Other", "unexpected params/Dense_1/bias", "kernel has shape (39, 128), not (39, 64)"):
        assert line in str(error.value)
    assert "remove" not in str(error.value)


def test_parts_join_into_one_file(tmp_path):
    config = loco_config.get_config(2, "variant=patch,scale=demo")
    config.vha, config.refiner = "released", "released-refiner"
    shapes = jax.eval_shape(experiment.create_task(config).init, jax.random.key(0))
    predictor = pretrained.join_variables(jax.tree.map(lambda x: np.full(x.shape, 0.25, np.float32), shapes))
    weights.save(tmp_path / "cp.safetensors", predictor, {"kind": "code_predictor"}, np.float16)
    export.join(config, str(tmp_path / "cp.safetensors"), str(tmp_path / "all.safetensors"), np.float16)
    params, about = weights.load(tmp_path / "all.safetensors")
    released, _ = weights.load(weights.path_of("released"))
    jax.tree.map(np.testing.assert_array_equal, params["vha"], released["vha"])
    jax.tree.map(np.testing.assert_array_equal, params["refiner"], _refiner())
    assert all((x == 0.25).all() for name in ("predictor", "batch_stats") for x in jax.tree.leaves(params[name]))
    assert "CodePredictor(2)" in load_predictor(str(tmp_path / "all.safetensors")).description
    assert about["config"]["predictor"]["trunk"] == "inception"


def test_a_run_is_exported_with_another_refiner(tmp_path, monkeypatch):
    config, (params, _) = _config(), weights.load(weights.path_of("released"))
    (tmp_path / "config.json").write_text(config.to_json_best_effort())
    other = jax.tree.map(lambda x: np.full_like(x, 0.5), _refiner())
    weights.save(tmp_path / "refiner.safetensors", other, {"kind": "refiner"})
    monkeypatch.setattr(weights, "read_run", lambda folder, config, like: {name: params[name] for name in like})
    for refiner, want in (("released-refiner", _refiner()), (str(tmp_path / "refiner.safetensors"), other), ("", None)):
        export.export(str(tmp_path), str(tmp_path / "all.safetensors"), refiner=refiner)
        found, about = weights.load(tmp_path / "all.safetensors")
        jax.tree.map(np.testing.assert_array_equal, found["predictor"], params["predictor"])
        if want is None:
            assert "refiner" not in found and about["config"]["refiner"] == loco.PICTURE
        else:
            jax.tree.map(np.testing.assert_array_equal, found["refiner"], want)


def test_a_file_says_what_suits_its_network(tmp_path, monkeypatch):
    params, _ = weights.load(weights.path_of("released"))
    weights.save(tmp_path / "cp.safetensors", pretrained.join_variables(params), {"kind": "code_predictor"})
    frames = []

    def tuned(config, params, number):
        frames.append(number)
        config = config.copy_and_resolve_references()
        config.people.min_score = 0.34
        return config

    monkeypatch.setattr(export, "tuned", tuned)
    export.join(_config(), str(tmp_path / "cp.safetensors"), str(tmp_path / "all.safetensors"), tune=7)
    assert frames == [7] and weights.config_of(str(tmp_path / "all.safetensors")).people.min_score == 0.34


def test_what_suits_a_network_is_among_what_can_be():
    params, _ = weights.load(weights.path_of("released"))
    config = export.tuned(_config(), params, 2)
    assert 0 <= config.people.min_score < 0.5 and config.people.overlap >= 0.1
    experiment.create_task(config)


def _standing_apart(count, rng):
    """Points of `count` people, each joint of the first type at random and the others below, and the people."""
    true = rng.uniform(-1, 1, (count, 1, 3)) + 3 * np.arange(count)[:, None, None] * [1, 0, 0] + [0, 0, 8]
    true = true + 0.1 * np.arange(14)[:, None] * [0, 1, 0]
    return true.astype(np.float32)


@pytest.mark.parametrize(("good", "want"), [(True, (3, 0.3)), (False, (14, 0.0))])
def test_the_rules_of_refinement_lose_nothing(good, want):
    """Everybody lacks two joints and there are false lone points of a low score: a good refiner fills the two in, and a
    bad one is kept from all but whole people, of whom there are none."""
    rng = np.random.default_rng(0)
    true = np.stack([_standing_apart(3, rng) for _ in range(2)])
    points = np.swapaxes(true, 1, 2).copy()
    scores = np.full((2, 14, 3), 0.5, np.float32)
    scores[:, 12:] = 0
    if good:
        points[:, 12:, 0], scores[:, 12:, 0] = [0, 0, 20], 0.25
    found = jax.device_get(jax.vmap(association.group)(points, scores))

    order = np.argmin(np.linalg.norm(found.joints[:, :, None, 0] - true[:, None, :, 0], axis=-1), axis=-1)
    ideal = np.take_along_axis(true, order[..., None, None], axis=1)
    better = found._replace(joints=ideal if good else ideal + 5.0)
    cloud = Points(points, scores, None)
    rules = tuning.best_rules(cloud, found, better, true, np.ones((2, 3, 14), bool), METRES, (3, 14), (0.0, 0.3))
    assert rules == want


def test_weights_that_are_none(tmp_path):
    with pytest.raises(weights.WeightsError, match="no such file"):
        load_predictor(str(tmp_path / "w.safetensors"))
    weights.save(tmp_path / "w.safetensors", {"x": np.ones(2)}, {"kind": "vha"})
    with pytest.raises(weights.WeightsError, match="kind 'vha', not a whole loco"):
        load_predictor(str(tmp_path / "w.safetensors"))


def test_a_trained_trunk_goes_into_the_published_predictor(tmp_path):
    config = loco_config.get_config(2, "variant=patch,trunk=inception,scale=demo")
    config.vha, config.predictor.trunk_weights = "released", str(tmp_path / "trunk.safetensors")
    task = experiment.create_task(config)
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
    ones = {
        "params": jax.tree.map(np.ones_like, zeros["predictor"]["params"]["trunk"]),
        "batch_stats": jax.tree.map(np.ones_like, zeros["batch_stats"]["trunk"]),
    }
    weights.save(tmp_path / "trunk.safetensors", ones, {"kind": "inception"})
    params = task.pretrained(zeros)
    trunk, head = (jax.tree.leaves(params["predictor"]["params"][name]) for name in ("trunk", "head"))
    assert all((x == 1).all() for x in trunk) and not any(x.any() for x in head)
    assert all((x == 1).all() for x in jax.tree.leaves(params["batch_stats"]))
    assert any(x.any() for x in jax.tree.leaves(params["vha"]))  # the released autoencoder


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (["--workdir=nowhere", "--output=x.safetensors"], 1, "not the folder of a run"),
        (
            [
                "--config=configs/loco2.py:variant=patch,scale=demo",
                "--config.vha=released",
                "--code_predictor=no.safetensors",
                "--output=x",
            ],
            1,
            "no.safetensors",
        ),
        (["--output=x.safetensors"], 1, "want either --weights or --workdir, or --config and --code_predictor"),
        (
            ["--workdir=run", "--config=configs/loco2.py", "--config.refiner=x", "--output=x.safetensors"],
            1,
            "want either --weights or --workdir, or --config and --code_predictor",
        ),
    ],
)
def test_the_export_command_says_what_is_wrong(arguments, status, word):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    ran = subprocess.run(
        [sys.executable, "-m", "loco_jax.export", *arguments], capture_output=True, text=True, env=environment
    )
    assert ran.returncode == status and word in ran.stdout + ran.stderr and "Traceback" not in ran.stderr
