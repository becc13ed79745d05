import inspect
import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from training.config.presets import ABOUT, PRESETS, differing_fields, resolve_config
from training.config.train import TrainConfig, flatten, to_yaml
from wtours.cli.app import app
from wtours.errors import UsageError


def test_the_preset_official_has_the_constants_of_the_released_code():
    config = resolve_config("official", None, [])
    assert config == TrainConfig()
    assert (config.model.num_prototypes, config.data.clip_length, config.data.local_crops) == (
        65536,
        8,
        6,
    )
    assert (config.optim.lr, config.optim.min_lr, config.optim.clip_grad) == (5e-4, 1e-5, 3.0)
    assert (config.optim.momentum, config.optim.momentum_end) == (0.996, 1.0)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_a_round_through_yaml(name, tmp_path):
    config = resolve_config(name, None, [])
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    assert resolve_config("official", path, []) == config


def test_a_pair_wins_over_the_file_and_the_file_over_the_preset(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("optim:\n  steps: 50\n  lr: 1e-3\nseed: 7\n")
    config = resolve_config("demo", path, ["optim.steps=60", "data.local_crop_scale=[0.1, 0.3]"])
    assert (config.seed, config.optim.steps, config.optim.lr) == (7, 60, 1e-3)
    assert config.data.local_crop_scale == (0.1, 0.3)
    assert config.model.depth == 4  # the preset's


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("optim.stepz=5", "unknown config key 'optim.stepz'; did you mean: optim.steps"),
        ("lr=1", "unknown config key 'lr'; did you mean: optim.lr"),
        ("zzz=1", "unknown config key 'zzz'; see https"),
        ("optim=5", "unknown config key 'optim'"),
        ("optim.steps=many", "optim.steps='many'"),
        ("optim.steps=-1", "optim.steps=-1"),
        ("optim.steps", "write it as key=value"),
        ("tracking.mask=furry", "tracking.mask='furry'"),
        ("data.local_crop_scale=[0.5, 0.1]", "0 < low <= high <= 1"),
        ("loss.local_crops_skipped=9", "must not be above data.local_crops"),
        ("loss.reduction=sum", "only with loss.object_weights=mean"),
        ("optim.warmup_epochs=200", "must not be above optim.epochs"),
    ],
)
def test_what_is_not_allowed_is_refused_by_name_as_a_usage_error(given, message):
    with pytest.raises(UsageError) as caught:
        resolve_config("official", None, [given])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_every_preset_says_what_it_is():
    assert ABOUT.keys() == PRESETS.keys()
    about_methods = Path(__file__).parents[3].joinpath("docs/reference/methods.md").read_text()
    for name, changes in PRESETS.items():
        if changes.get("method", "dora") not in ("dora", "dora_images"):
            assert f"| `{name}` |" in about_methods


def test_an_unknown_preset_names_those_there_are():
    with pytest.raises(
        UsageError,
        match="unknown preset 'big'; there are: official, fast, paper, dino, images, simclr",
    ):
        resolve_config("big", None, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [("- a\n- b\n", "must hold a mapping"), ("a: [", "is not YAML"), (None, "cannot be read")],
)
def test_a_config_file_that_is_none_is_refused_with_its_path(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        resolve_config("official", path, [])
    assert str(path) in str(caught.value)


def test_the_paper_differs_from_the_released_code_only_where_the_parity_table_says_so():
    table = (Path(__file__).resolve().parents[3] / "docs" / "explanation" / "parity.md").read_text()
    differences = differing_fields("paper", "official")
    assert differences["loss.reduction"] == ("sum", "mean")
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    for key, (paper, official) in differences.items():
        shown = {None: "null", 1e-5: "1e-5", 1e-6: "1e-6"}
        pair = f"`{key}`: {shown.get(official, official)} / {shown.get(paper, paper)}"
        assert any(pair in row for row in rows), pair


def test_every_field_has_a_docstring():
    import training.config.methods
    import training.config.sections
    import training.config.train

    modules = (training.config.train, training.config.sections, training.config.methods)
    lines = [line for m in modules for line in inspect.getsource(m).splitlines()]
    fields = [i for i, line in enumerate(lines) if line.startswith("    ") and " = " in line]
    declared = [i for i in fields if ":" in lines[i].split("=")[0] and lines[i][4].isalpha()]
    keys = flatten(TrainConfig().model_dump())
    documented = [i for i in declared if lines[i + 1].strip().startswith('"""')]
    sections = [value for value in TrainConfig().model_dump().values() if isinstance(value, dict)]
    assert len(documented) == len(keys) + len(sections)  # the sections are fields too
    assert yaml.safe_load(to_yaml(TrainConfig()))["optim"]["name"] == "adamw"


def test_the_command_line_prints_where_two_presets_differ():
    result = CliRunner().invoke(app, ["presets", "diff", "paper", "official", "--json"])
    assert result.exit_code == 0, result.output
    fields = json.loads(result.output)
    assert fields["optim.name"] == {"paper": "lars", "official": "adamw"}
    assert fields["optim.lr_clips"] == {"paper": None, "official": 256}
    shown = CliRunner().invoke(app, ["presets", "diff", "paper"]).output
    assert f"{len(fields)} fields differ" in shown
    assert "null" in shown
