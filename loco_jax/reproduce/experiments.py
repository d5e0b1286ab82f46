"""The rows of the poster's tables: the config that trains each system, and how it differs from that config."""

import dataclasses
import functools
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

SCALES = ("demo", "full", "test")
# Minutes of training. An autoencoder gets a third of a LoCO's budget.
EXTRA, AUTOENCODER_SHARE = 3.0, 1 / 3
BUDGET = {"demo": 20.0, "full": 60.0, "test": 0.02}
ENDLESS = 10**9  # steps, or log lines: never reached before the budget ends a run
_EVERY = {"demo": 100, "full": 500, "test": 50}  # steps from one evaluation to the next, for the curves
# Rules of the rows with "+": the published ones for all systems, since others are tuned for the compact LoCO.
_RULES = {"refine.least_joints": 1, "refine.least_stray": 0.6}
_SMALL: Mapping[str, Any] = {  # the scale of tests
    "volume.image_size": (64, 96), "volume.depth_bins": 8, "model.width": 8, "model.blocks": 1, "predictor.width": 8,
    "predictor.blocks": 1, "predictor.coarsest": 32, "eval_frames": 2, "test_frames": 2, "max_peaks": 8,
    "data.batch_size": 1, "spoil.found": 8, "data.crowd.min_people": 2, "data.crowd.mean_people": 3.0,
    "data.crowd.most_people": 4, "pictures": 0,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all rows share.

    Attributes:
      folder: of all rows.
      scale: one of `SCALES`.
      budget: minutes of training of a system.
      shared: fields of the config that all rows get, by their dotted names.
      factors: of the config's learning rate, which the search tries.
      speed: of this machine, relative to the one that the budget is meant for. A training takes budget / speed minutes.
    """

    folder: epath.Path
    scale: str
    budget: float
    shared: Mapping[str, Any]
    factors: tuple[float, ...] = (1 / 3, 1.0, 3.0)
    speed: float = 1.0

    @property
    def extra(self) -> float:
        """Minutes of a run of the search, and of a refiner; fewer if the whole budget is small."""
        return EXTRA * min(1.0, self.budget / BUDGET["demo"])


@dataclasses.dataclass(frozen=True)
class Row:
    """A system of the tables, or what is measured without one.

    Attributes:
      name: names the row's folder, and the row on the command line.
      label: names the row in tables.
      config: name of the config file, without ending; "" if nothing is trained.
      argument: of the config, without the scale.
      fields: values of the config's fields, by their dotted names, that differ from the file's.
      poster: the poster's row that it stands beside; "" for none.
      longer: relative training time, see `running.parts`.
    """

    name: str
    label: str
    config: str = ""
    argument: str = ""
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    poster: str = ""
    longer: float = 1.0

    @property
    def is_autoencoder(self) -> bool:
        """Whether it belongs into the table of autoencoders, and not into that of people."""
        return self.config.startswith("vha")


_UNCOMPRESSED = "uncompressed volumetric heatmaps"
_PATCH = "variant=patch"
_LOCO = "variant=patch,trunk=compact"
# The losses that only LoCO has are off: all systems learn from the same labels.
_ALIKE = {"predictor.teaching_weight": 0.0, "predictor.side_weight": 0.0}
AUTOENCODERS = ("patch_vha1", "patch_vha2", "patch_vha3", "vha1", "vha2", "vha3")  # of one volume
ROWS = (
    *(Row(f"vha{k}", f"VHA({k})", f"vha{k}", "", {}, f"VHA({k})", longer=1.5) for k in (1, 2, 3)),
    *(Row(f"patch_vha{k}", f"PatchVHA({k})", f"vha{k}", _PATCH) for k in (1, 2, 3)),
    Row("patch_vha2_10cm", "PatchVHA(2), bins of 10 cm", "vha2_10cm"),
    Row("location_maps", "Location Maps", "location_maps", poster="Location Maps"),
    Row("top_down", "top-down", "top_down", poster="top-down: YOLOv3 + lifting"),
    Row("volumetric", _UNCOMPRESSED, "volumetric", poster=_UNCOMPRESSED),
    Row("volumetric_squared", f"{_UNCOMPRESSED}, squared error", "volumetric", "", {"model.loss": "squared"}),
    *(Row(f"loco{k}", f"LoCO({k})", f"loco{k}", _LOCO, _ALIKE, f"LoCO({k})") for k in (1, 2, 3)),
    Row(
        "loco2_published", "LoCO(2) on the published VHA(2)", "loco2", "variant=published,trunk=compact", _ALIKE,
        longer=1.5,
    ),
    Row("heatmaps", "heatmaps"),
)  # fmt: skip
BY_NAME = {row.name: row for row in ROWS}


def named(names: Sequence[str]) -> list[Row]:
    """The rows of these names. Raises ValueError for an unknown name."""
    if unknown := [name for name in names if name not in BY_NAME]:
        raise ValueError(f"--only={','.join(unknown)}: no such row; there are {', '.join(BY_NAME)}")
    return [BY_NAME[name] for name in dict.fromkeys(names)]


def config_of(row: Row, settings: Settings) -> ConfigDict:
    """The config that trains a row, without budget."""
    every = _EVERY[settings.scale]
    curve = {} if row.is_autoencoder else {"eval_every": every, "eval_frames": 64}
    fields = {"test_frames": 256, "refiner": "", "checkpoint_every": 2 * every, **_RULES, **curve, **row.fields}
    return _read(row.config, row.argument, settings, fields)


def autoencoder_of(config: ConfigDict, settings: Settings) -> ConfigDict:
    """The config of the autoencoder that a LoCO's config needs."""
    fields = {"checkpoint_every": 2 * _EVERY[settings.scale]}
    return _read(f"vha{config.model.level}", f"variant={config.model.variant}", settings, fields)


def refiner_of(predictor: str, settings: Settings) -> ConfigDict:
    """The config of a refiner that learns from the people that `predictor` finds, the folder of a run."""
    return _read("refiner", "", settings, {"spoil.predictor": predictor})


def search_of(config: ConfigDict, rate: float) -> ConfigDict:
    """A copy that tries a learning rate, and is evaluated once at its end."""
    c = config.copy_and_resolve_references()
    c.eval_every, c.optimizer.learning_rate = 0, rate
    return c


def with_budget(config: ConfigDict, minutes: float, rate: float | None = None) -> ConfigDict:
    """A copy that trains for so many minutes, at another learning rate if one is given."""
    c = config.copy_and_resolve_references()
    c.steps, c.budget_minutes = ENDLESS, minutes
    if jax.default_backend() == "cpu":
        c.budget_clock = "processor"  # so that other work on the machine takes nothing from a row
    if c.optimizer.schedule == "cosine":
        c.optimizer.warmup = min(c.optimizer.warmup, 50)  # a short run ends before a long warm-up does
    if rate is not None:
        c.optimizer.learning_rate = rate
    return c


def _read(name: str, argument: str, settings: Settings, fields: Mapping[str, Any]) -> ConfigDict:
    """A config file's config, with values of those fields that it has."""
    scale = f"scale={'full' if settings.scale == 'full' else 'demo'}"
    module = importlib.import_module(f"loco_jax.configs.{name}")
    config = module.get_config(",".join(filter(None, (argument, scale))))
    small = _SMALL if settings.scale == "test" else {}
    for field, value in {**fields, **small, **settings.shared}.items():
        *sections, last = field.split(".")
        section = functools.reduce(lambda section, part: section.get(part, {}), sections, config)
        if last in section:
            section[last] = value
    return config
