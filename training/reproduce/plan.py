"""A plan: which runs and evaluations fill which rows of the paper's tables, read from a TOML file.

`paper.toml` has the 39 runs of Tables 2 to 5, 7 and 8; `tiny.toml` runs the same rows on rendered
walks in minutes, which tests the machinery and reproduces nothing. A plan is a list of steps, each
an ordinary `wtours` command, in the order in which they can be done.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from training.config.methods import REQUIRED
from training.config.presets import resolve_config
from training.config.sections import Section
from training.config.train import TrainConfig
from training.engine.checkpoint_files import RANDOM
from training.evaluation.published import TABLES, PaperTable
from wtours.errors import UsageError
from wtours.shards.schema import DATASET_FILE

MEAN = "mean"
PLANS = ("paper", "tiny")

# The paper prints Table 2c as a figure without numbers that can be read off; its rows are run.
TABLE_2C = PaperTable(
    "2c",
    "Mask and Sinkhorn-Knopp, WT_Venice (the paper's figures are a picture)",
    ("mask", "Sinkhorn-Knopp"),
    ("LP", "CorLoc"),
    (
        (("random blocks", "✗"), (None, None)),
        (("random blocks", "✓"), (None, None)),
        (("multi-object", "✗"), (None, None)),
        (("multi-object", "✓"), (None, None)),
    ),
)
ALL_TABLES = tuple(sorted((*TABLES, TABLE_2C), key=lambda table: table.number))


class Data(Section):
    """Pretraining data: a shard set of the workspace, or a folder of images given by an option."""

    clips: Annotated[int, Field(gt=0)]
    """Clips (images) of an epoch, for the cost; the run itself counts what is there."""
    shards: str | None = None
    """Name of the shard set."""
    images: str | None = None
    """Name of the option whose folder `train` holds the images."""
    needs: str | None = None
    """How the user gets it; None: one of the ten videos."""


class Run(Section):
    """One pretraining run: `preset` with `overrides` over it, on `data`."""

    data: str
    preset: str
    overrides: tuple[str, ...] = Field(default=(), alias="set")


class Evaluation(Section):
    """How some columns of the tables are measured."""

    columns: tuple[str, ...]
    hours: float
    """A100 hours of one evaluation, for the cost."""
    needs: tuple[str, ...] = ()
    """Names of the options whose folders the command wants."""
    command: str | None = None
    by_hand: str | None = None


class _File(Section):
    title: str
    prepare: tuple[str, ...] = ()
    common: tuple[str, ...] = ()
    data: dict[str, Data]
    runs: dict[str, Run]
    tables: dict[str, tuple[str, ...]]
    evaluations: dict[str, Evaluation]


@dataclass(frozen=True)
class Step:
    """One ordinary command of a plan."""

    name: str
    """Its name in the plan: "prepare-1", "dora-venice", "dora-venice: linear"."""
    words: tuple[str, ...]
    """Of the command, without `wtours`; empty: nothing wtours can run."""
    lacks: tuple[str, ...] = ()
    """What has to be there or done first and is not; none: it can be run."""
    run: str = ""
    """Of the plan, or "" for a preparation."""
    evaluation: str = ""
    """Its name; "" for a preparation or a run."""


@dataclass(frozen=True)
class Plan:
    """A plan, restricted to some tables."""

    name: str
    """Either "paper" or "tiny"."""
    tables: tuple[str, ...]
    """Their numbers, "2a"."""
    folders: Mapping[str, Path]
    """By option: where images, VOC, DAVIS, ADE20k are."""
    root: Path
    file: _File

    @cached_property
    def rows(self) -> list[tuple[PaperTable, list[str]]]:
        """Return each table with the run of each of its rows."""
        return [
            (t, list(self.file.tables[t.number])) for t in ALL_TABLES if t.number in self.tables
        ]

    @cached_property
    def columns(self) -> dict[str, set[str]]:
        """Return what is to be measured of each network, "RUN" or "RUN,random"."""
        wanted: dict[str, set[str]] = {}
        for table, runs in self.rows:
            for run, (_, figures) in zip(runs, table.rows, strict=True):
                if run and run != MEAN:
                    unprinted = table.number == TABLE_2C.number
                    wanted.setdefault(run, set()).update(
                        column
                        for column, figure in zip(table.measures, figures, strict=True)
                        if figure is not None or unprinted
                    )
        return wanted

    @cached_property
    def runs(self) -> dict[str, Run]:
        """Return the runs that the tables need, in the order of the file."""
        needed = {network.removesuffix(RANDOM) for network in self.columns}
        return {name: run for name, run in self.file.runs.items() if name in needed}

    def config(self, run: Run) -> TrainConfig:
        """Return the settings that a run is trained with."""
        return resolve_config(run.preset, None, self._overrides(run))

    def _overrides(self, run: Run) -> list[str]:
        # The plan's common settings are for all runs, but the fields that a method fixes stay its
        # own: VICReg takes no local crops.
        fixed = REQUIRED[resolve_config(run.preset, None, []).method]
        common = (pair for pair in self.file.common if pair.partition("=")[0] not in fixed)
        return [*common, *run.overrides]

    def run_name(self, run: str) -> str:
        """Return the run's name in the workspace."""
        return run if self.name == "paper" else f"{self.name}-{run}"

    def steps(self) -> list[Step]:
        """Return every command in order: preparations, then each run and its evaluations."""
        steps = [
            Step(f"prepare-{number}", self._words(line))
            for number, line in enumerate(self.file.prepare, 1)
        ]
        for name, run in self.runs.items():
            pretraining = self._pretraining(name, run)
            steps.append(pretraining)
            for network in (name, name + RANDOM):
                steps += self._evaluations(network, pretraining)
        return steps

    def _pretraining(self, name: str, run: Run) -> Step:
        data = self.file.data[run.data]
        lacks: tuple[str, ...] = ()
        if data.images is not None:
            lacks = self._absent(data.images)
            source = "" if lacks else str(self.folders[data.images] / "train")
        else:
            source = data.shards or ""
            is_there = (self.root / "shards" / source / DATASET_FILE).is_file()
            if not is_there and not self.file.prepare:  # a plan that prepares makes its own
                prepare = f"wtours prepare --video {source} --shards {source} --root {self.root}"
                lacks = (data.needs or prepare,)
        settings = [word for pair in self._overrides(run) for word in ("--set", pair)]
        words = (
            *("pretrain", source, "--run", self.run_name(name), "--preset", run.preset),
            *settings,
            *("--root", str(self.root)),
        )
        return Step(name, words, lacks, run=name)

    def _evaluations(self, network: str, pretraining: Step) -> Iterable[Step]:
        wanted = self.columns.get(network, set())
        for name, evaluation in self.file.evaluations.items():
            if not wanted & set(evaluation.columns):
                continue
            by_hand = (evaluation.by_hand,) if evaluation.by_hand else ()
            absent = self._absent(*evaluation.needs)
            words: tuple[str, ...] = ()
            if evaluation.command is not None and not absent:
                run = self.run_name(pretraining.run) + (RANDOM if network.endswith(RANDOM) else "")
                words = (*self._words(evaluation.command, run=run), "--root", str(self.root))
            yield Step(
                name=f"{network}: {name}",
                words=words,
                lacks=by_hand or tuple(dict.fromkeys((*pretraining.lacks, *absent))),
                run=pretraining.run,
                evaluation=name,
            )

    def _absent(self, *options: str) -> tuple[str, ...]:
        """Return the options that would have to be given."""
        return tuple(f"--{option} DIR" for option in options if option not in self.folders)

    def _words(self, line: str, run: str = "") -> tuple[str, ...]:
        """Return the words of a command; a folder with spaces stays one word."""
        names = {option: str(folder) for option, folder in self.folders.items()}
        return tuple(word.format(run=run, root=self.root, **names) for word in line.split())


def load_plan(
    name: str, *, root: Path, tables: Sequence[str] = (), folders: Mapping[str, Path]
) -> Plan:
    """Return a built-in plan.

    Args:
        name: "paper" or "tiny".
        tables: Numbers of tables, "2a"; none: all.
        folders: By option ("imagenet", "voc", "davis", "ade20k"); the tiny plan makes its own.

    Raises:
        UsageError: no such plan or table.
    """
    if name not in PLANS:
        raise UsageError(f"no plan {name!r}; there are: {', '.join(PLANS)}")
    file = _read(resources.files("training.reproduce").joinpath(f"{name}.toml").read_bytes())
    if unknown := [number for number in tables if number not in file.tables]:
        raise UsageError(f"no table {unknown[0]!r} in the plan; it has: {', '.join(file.tables)}")
    if name == "tiny":
        rendered = root / "rendered"
        own = {"imagenet": "crops", "voc": "voc", "davis": "davis", "ade20k": "ade20k"}
        folders = {option: rendered / folder for option, folder in own.items()}
    return Plan(name, tuple(tables) or tuple(file.tables), folders, root, file)


def _read(data: bytes) -> _File:
    content: dict[str, Any] = tomllib.loads(data.decode())
    if "like" in content:  # the rows, runs and evaluations of another plan, with changes of its own
        other = tomllib.loads(
            resources.files("training.reproduce").joinpath(content.pop("like")).read_text("utf-8")
        )
        changes: dict[str, Any] = content.pop("evaluations", {})
        content = {**other, **content}
        for evaluation, change in changes.items():
            content["evaluations"][evaluation] |= change
    try:
        return _File.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"a built-in plan is wrong: {error}") from error
