"""`studiogan-gsr studiogan`: run, patch or fetch StudioGAN."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass
from pathlib import Path

from studiogan_gsr.commandline import add_options, describe, option, positive, read_options, repeatable, switch
from studiogan_gsr.commands.next_steps import command, print_next
from studiogan_gsr.errors import DONE, FAILED, RequestError, near_miss
from studiogan_gsr.shipped import EXAMPLE, shipped_configuration

_FOLDERS = ("-data", "data", "-save", "runs")  # where an example of main.py's arguments reads and writes
ROOT_HELP = "StudioGAN's checkout; default: $STUDIOGAN_ROOT, else the cache folder"


@dataclass(frozen=True)
class RunOptions:
    """Options of `studiogan-gsr studiogan run`."""

    root: str | None = option(None, ROOT_HELP, metavar="DIR")
    device: str | None = option(None, "device to train on; default: cuda if it is available", choices=["cpu", "cuda"])
    ranks: int = option(1, "number of processes of a -DDP run; only with --device cpu", kind=positive, metavar="N")
    no_shim: list[str] = repeatable(
        "do not apply this shim, which `studiogan-gsr doctor` lists; may be repeated; default: all are applied",
        metavar="NAME",
        flag="--no-shim",
    )


@dataclass(frozen=True)
class PatchOptions:
    """Options of `studiogan-gsr studiogan patch`."""

    root: str | None = option(None, ROOT_HELP, metavar="DIR")
    check: bool = switch(False, "only print the state of each file; exit status 0 if all are patched")
    revert: bool = switch(False, "remove the lines; every file is byte for byte as before")


@dataclass(frozen=True)
class FetchOptions:
    """Options of `studiogan-gsr studiogan fetch`."""

    root: str | None = option(None, ROOT_HELP, metavar="DIR")
    source: str | None = option(
        None, "repository to clone; default: the project on GitHub", flag="--from", metavar="URL"
    )


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's actions."""
    describe(
        parser,
        "Trains with StudioGAN itself, from a checkout that is left as it is (run) or patched (patch).",
        example="studiogan-gsr studiogan fetch",
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    run = actions.add_parser(
        "run",
        help="run StudioGAN's main.py with the plug-ins",
        usage="%(prog)s [-h] [--root DIR] [--device {cpu,cuda}] [--ranks N] [--no-shim NAME] -- ARGS",
    )
    describe(
        run,
        "Runs StudioGAN's main.py with all installed plug-ins, from an unchanged checkout.",
        example=f"studiogan-gsr studiogan run -- -t -cfg {EXAMPLE} {' '.join(_FOLDERS)}",
    )
    add_options(run, RunOptions)
    run.add_argument(
        "arguments",
        nargs=argparse.REMAINDER,
        metavar="ARGS",
        help="arguments of main.py, after --; -cfg also takes the name of a shipped configuration",
    )
    run.set_defaults(command=run_main, explain_unknown=_explain_unknown)
    patch = actions.add_parser("patch", help="make StudioGAN's main.py look up plug-ins")
    describe(
        patch,
        "Inserts a few lines into a checkout of the pinned commit; `python src/main.py` then finds all installed "
        "plug-ins. Patches all files or none; a patched checkout is left unchanged.",
        example="studiogan-gsr studiogan patch --root PyTorch-StudioGAN",
    )
    add_options(patch, PatchOptions)
    patch.set_defaults(command=run_patch)
    fetch = actions.add_parser("fetch", help="clone the pinned commit to the default place")
    describe(
        fetch,
        "Clones PyTorch-StudioGAN at the pinned commit, to --root.",
        example="studiogan-gsr studiogan fetch",
    )
    add_options(fetch, FetchOptions)
    fetch.set_defaults(command=run_fetch)


def _explain_unknown(argument: str) -> str:
    """Return a hint for an unknown argument: a similar option, or that main.py's arguments follow --."""
    hint = near_miss(argument, ("--root", "--device", "--ranks", "--no-shim"))
    return hint or "; main.py's own arguments follow --: studiogan-gsr studiogan run -- -t -cfg CONFIG ..."


def run_main(parsed: argparse.Namespace) -> None:
    """Run StudioGAN's main.py."""
    from studiogan_gsr.hosts.checkpoint_files import studiogan_checkpoints
    from studiogan_gsr.hosts.studiogan.launcher import run

    options = read_options(RunOptions, parsed)
    arguments = parsed.arguments[1:] if parsed.arguments[:1] == ["--"] else parsed.arguments
    run(options.root, arguments, options.device, options.ranks, options.no_shim)
    theirs = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    theirs.add_argument("-save", "--save_dir", default=".")
    save = theirs.parse_known_args(arguments)[0].save_dir
    saved = studiogan_checkpoints(Path(save))
    path = saved[-1] if len(saved) > 1 else save  # earlier runs are in the folder, too
    print_next(command("report", path), command("evaluate", path))


def run_patch(parsed: argparse.Namespace) -> int:
    """Apply the patch series, revert it, or print its state."""
    from studiogan_gsr.hosts.studiogan.checkout import find_checkout
    from studiogan_gsr.hosts.studiogan.patching import PATCHED, UNPATCHED, apply_series, series, state_of

    options = read_options(PatchOptions, parsed)
    if options.check and options.revert:
        raise RequestError("--check and --revert: found both; give one of them")
    checkout, patches = find_checkout(options.root), series()
    if options.check:
        states = state_of(checkout, patches)
        for path, state in states.items():
            print(f"{checkout.root / path}: {state}")
        patched = set(states.values()) == {PATCHED}
        print_next(_main(checkout.main) if patched else command("studiogan", "patch", "--root", checkout.root))
        return DONE if patched else FAILED
    written = apply_series(checkout, patches, revert=options.revert)
    state = UNPATCHED if options.revert else PATCHED
    print(f"{checkout.root}: {state}" + (f", written: {', '.join(written)}" if written else " already"))
    print_next(launch(options.root) if options.revert else _main(checkout.main))
    return DONE


def run_fetch(parsed: argparse.Namespace) -> None:
    """Clone the pinned commit."""
    from studiogan_gsr.hosts.studiogan.checkout import SOURCE, fetch

    options = read_options(FetchOptions, parsed)
    checkout = fetch(options.root, options.source or SOURCE)
    print(f"PyTorch-StudioGAN {checkout.commit() or 'of an unknown commit'} at {checkout.root}")
    print_next(launch(options.root), command("doctor", *_given(options.root)))


def launch(root: str | None) -> str:
    """Return the command that runs main.py of an unpatched checkout."""
    return command("studiogan", "run", *_given(root), "--", "-t", "-cfg", EXAMPLE, *_FOLDERS)


def _main(main: Path) -> str:
    """Return the command that runs a patched main.py."""
    words = ["python", main, "-t", "-cfg", shipped_configuration(EXAMPLE), *_FOLDERS]
    return f"`{shlex.join(map(str, words))}`"


def _given(root: str | None) -> list[str]:
    return [] if root is None else ["--root", root]
