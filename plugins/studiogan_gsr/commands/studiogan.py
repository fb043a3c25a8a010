"""`studiogan-gsr studiogan`: run, patch or fetch StudioGAN."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from studiogan_gsr.commandline import add_options, option, positive, read_options, repeatable, switch
from studiogan_gsr.errors import DONE, FAILED, RequestError, near_miss

ROOT_HELP = "StudioGAN's checkout; default: $STUDIOGAN_ROOT, else the cache folder"


@dataclass(frozen=True)
class RunOptions:
    """Options of `studiogan-gsr studiogan run`."""

    root: str | None = option(None, ROOT_HELP, metavar="DIR")
    device: str | None = option(None, "default: cuda where it is available", choices=["cpu", "cuda"])
    ranks: int = option(1, "number of processes of a -DDP run; only with --device cpu", kind=positive)
    no_shim: list[str] = repeatable(
        "do not apply this shim; `studiogan-gsr doctor` lists them", metavar="NAME", flag="--no-shim"
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
    source: str | None = option(None, "default: the project on GitHub", flag="--from", metavar="URL")


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's actions."""
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    run = actions.add_parser(
        "run",
        help="run StudioGAN's main.py with the plug-ins",
        usage="studiogan-gsr studiogan run [--root DIR] [--device cpu|cuda] -- ARGS",
        description="ARGS are the arguments of StudioGAN's main.py; -cfg also takes a shipped configuration's name.",
    )
    add_options(run, RunOptions)
    run.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGS")
    run.set_defaults(command=run_main, explain_unknown=_explain_unknown)
    patch = actions.add_parser(
        "patch",
        help="make StudioGAN's main.py look up plug-ins",
        description="Inserts a few lines into a checkout of the pinned commit; `python src/main.py` then finds all "
        "installed plug-ins. Patches all files or none; a patched checkout is left unchanged.",
    )
    add_options(patch, PatchOptions)
    patch.set_defaults(command=run_patch)
    fetch = actions.add_parser("fetch", help="clone the pinned commit to the default place")
    add_options(fetch, FetchOptions)
    fetch.set_defaults(command=run_fetch)


def _explain_unknown(argument: str) -> str:
    """Return a hint for an unknown argument: a similar option, or that main.py's arguments follow --."""
    hint = near_miss(argument, ("--root", "--device", "--ranks", "--no-shim"))
    return hint or "; main.py's own arguments follow --: studiogan-gsr studiogan run -- -t -cfg CONFIG ..."


def run_main(parsed: argparse.Namespace) -> None:
    """Run StudioGAN's main.py."""
    from studiogan_gsr.hosts.studiogan.launcher import run

    options = read_options(RunOptions, parsed)
    arguments = parsed.arguments[1:] if parsed.arguments[:1] == ["--"] else parsed.arguments
    run(options.root, arguments, options.device, options.ranks, options.no_shim)


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
        return DONE if set(states.values()) == {PATCHED} else FAILED
    written = apply_series(checkout, patches, revert=options.revert)
    state = UNPATCHED if options.revert else PATCHED
    print(f"{checkout.root}: {state}" + (f", written: {', '.join(written)}" if written else " already"))
    return DONE


def run_fetch(parsed: argparse.Namespace) -> None:
    """Clone the pinned commit."""
    from studiogan_gsr.hosts.studiogan.checkout import SOURCE, fetch

    options = read_options(FetchOptions, parsed)
    checkout = fetch(options.root, options.source or SOURCE)
    print(f"PyTorch-StudioGAN {checkout.commit() or 'of an unknown commit'} at {checkout.root}")
