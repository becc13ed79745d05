"""The commands that show the presets of training: presets list, show and diff."""

from pathlib import Path
from typing import Annotated

import typer

from wtours.cli import console
from wtours.cli.command import offer_presets
from wtours.cli.options import AsJson, require_training
from wtours.text import counted

Preset = Annotated[
    str,
    typer.Option(
        "--preset",
        "-p",
        metavar="NAME",
        autocompletion=offer_presets,
        help="official (the released code), fast, paper, dino, ibot, attmask, simclr, swav, "
        "vicreg, images or demo (for a CPU); `wtours presets list` says more.",
    ),
]

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="A YAML file over the preset."),
]

PresetName = Annotated[
    str, typer.Argument(metavar="NAME", autocompletion=offer_presets, help="A preset.")
]

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="KEY=VALUE",
        help="Over both, for example optim.steps=500; repeatable.",
    ),
]


def list_presets(as_json: AsJson = False) -> None:
    """List the presets of training, and in how many fields each differs from `official`.

    Example: wtours presets list
    """
    require_training("presets", packages=["yaml"])
    from training.config.presets import ABOUT, PRESETS, differing_fields

    counts = {name: len(differing_fields(name, "official")) for name in PRESETS}
    if as_json:
        console.print_json(
            {name: {"about": ABOUT[name], "fields": count} for name, count in counts.items()}
        )
        return
    console.print_table(
        counted(len(counts), "preset"),
        ("preset", "what it is", "fields that differ"),
        [(name, ABOUT[name], str(count)) for name, count in counts.items()],
    )


def show_preset(
    preset: PresetName = "official",
    config: ConfigFile = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Print the whole config of a preset as YAML, with a file's and --set's changes.

    Example: wtours presets show demo --set optim.steps=500 > config.yaml
    """
    require_training("presets", packages=["yaml"])
    from training.config.presets import resolve_config
    from training.config.train import to_yaml

    resolved = resolve_config(preset, config, overrides or [])
    console.show(to_yaml(resolved), resolved.model_dump(mode="json"), as_json=as_json)


def diff_presets(
    one: PresetName,
    other: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            autocompletion=offer_presets,
            help="The preset it is compared with.",
        ),
    ] = "official",
    as_json: AsJson = False,
) -> None:
    """Print the fields in which two presets differ, with both values.

    Example: wtours presets diff paper official
    """
    require_training("presets", packages=["yaml"])
    from training.config.presets import differing_fields

    fields = differing_fields(one, other)
    if as_json:
        console.print_json({key: {one: ours, other: its} for key, (ours, its) in fields.items()})
        return
    console.print_table(
        counted(len(fields), "field differs", "fields differ"),
        ("field", one, other),
        [
            (key, *("null" if value is None else str(value) for value in pair))
            for key, pair in fields.items()
        ],
    )
