"""Write a pair of configurations, without gSR and with it, for a folder of images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from shlex import quote

import numpy as np

from studiogan_gsr.datasets.folder import folder_lt
from studiogan_gsr.datasets.layout import REFERENCE, TRAIN, Layout, find_layout
from studiogan_gsr.datasets.preprocessing import DEEP_MODES, STUDIOGAN, inspect_files
from studiogan_gsr.datasets.sizes import Sizes, largest_without_upscaling, sample_sizes
from studiogan_gsr.errors import DataError, GSRError, RequestError, reason
from studiogan_gsr.files import write_atomically
from studiogan_gsr.hosts.native.configuration import GENERATOR_BLOCKS
from studiogan_gsr.progress import console
from studiogan_gsr.runs.proposal import FEWEST_IMAGES, SMALL_SIZE, STUDIOGANS_SMALLEST, Proposal, propose
from studiogan_gsr.runs.proposal_text import NAMES, proposal_text
from studiogan_gsr.runs.protocol import IMAGES_PER_NEIGHBOUR, NEIGHBOURS
from studiogan_gsr.runs.split_folder import write_split

# Chosen by itself only from those that both hosts have.
_COMMON = [size for size in GENERATOR_BLOCKS if size >= STUDIOGANS_SMALLEST]
_RESIZER = "lanczos"
_FEW = 500  # images of a first look, which a CPU measures in less than a minute
# Of a class; with fewer, `evaluate` warns of its precision, recall and coverage.
_ENOUGH_REFERENCES = IMAGES_PER_NEIGHBOUR * NEIGHBOURS


def init(
    data: Path,
    out: Path | None = None,
    size: int | None = None,
    split: Path | None = None,
    hold_out: int | None = None,
    overwrite: bool = False,
    small: bool = False,
) -> list[Path]:
    """Look at a folder, write the two files, print what was found, what is missing and what comes next; return paths.

    out: folder for the files; None: configs-<name of the data folder>.
    size: pixels; None: as the images ask for.  small: networks that a CPU trains in minutes.
    split, hold_out: see `write_split`; without `split`, the folder must have train/.
    Raises DataError for a folder that is no data set, and RequestError for an impossible option, for a layout that
    needs `split`, and, unless `overwrite`, for other files that are there already.
    """
    if size not in (None, *GENERATOR_BLOCKS):
        raise RequestError(f"--size {size}: allowed: {_listed(GENERATOR_BLOCKS)}")
    if hold_out is not None and split is None:
        raise RequestError("--hold-out needs --split")
    layout = find_layout(data)
    if split is not None:
        write_split(layout, split, hold_out)
        layout = find_layout(split)
    elif layout.train != TRAIN[0]:
        found = "class folders" if layout.train is None else f"{layout.train}/"
        raise RequestError(
            f"{data}: found {found}, but both hosts read {TRAIN[0]}/ and {REFERENCE[0]}/; add {_split_option(data)}, "
            "which writes a folder with both and leaves this one as it is"
        )
    train = layout.training_images()
    counts = np.bincount(train.targets).tolist()
    if len(train) < FEWEST_IMAGES:
        raise DataError(f"{layout.root}: found {len(train)} training images; {FEWEST_IMAGES} or more make a batch")
    sizes = sample_sizes(train)
    if not sizes.sides:
        raise DataError(f"{data}: none of {len(sizes.unreadable)} images can be opened; first {sizes.unreadable[0]}")
    described = _description(layout.root, train.classes, counts)
    chosen = size or (SMALL_SIZE if small else largest_without_upscaling(sizes, _COMMON))
    proposal = propose(train.classes, counts, chosen, small)
    proposal.reasons["DATA.img_size"] = _size_reason(
        chosen, sizes, "--size" if size is not None else "--small" if small else None
    )
    files = _write(out or Path(f"configs-{data.resolve().name}"), proposal, described, overwrite)
    missing = _missing_reference(layout, split is not None)
    show = console()
    show.print(described)
    if max(counts) < 2 * min(counts):
        show.print(
            "note: the classes are about equally large; DATA.name: Folder_LT_rho100 would make them long-tailed"
        )
    references = () if missing is not None else _few_references(layout)
    for note in (*train.notes, *inspect_files(train, STUDIOGAN), *_notes(sizes), *references):
        show.print(f"note: {note}")
    show.print(f"size: {proposal.reasons['DATA.img_size']}")
    if missing is not None:
        show.print(f"missing: {missing}")
    show.print(f"written: {' and '.join(map(str, files))}")
    measuring = "" if missing is not None else f" --evaluate {_FEW}" if small else " --evaluate"
    for line in _next_steps(files, layout.root, chosen, not sizes.all_square_of(chosen), measuring):
        show.print(line)
    return files


def _listed(sizes: Iterable[int]) -> str:
    return ", ".join(map(str, sizes))


def _split_option(root: Path) -> str:
    return f"--split {quote(f'{root.resolve().name}-split')}"


def _description(root: Path, classes: Sequence[str], counts: Sequence[int]) -> str:
    most, few = counts.index(max(counts)), counts.index(min(counts))
    return (
        f"{sum(counts):,} images of {len(counts)} classes in {root.resolve().name}/train: from {counts[most]:,} "
        f"({classes[most]}) to {counts[few]:,} ({classes[few]}), ratio {counts[most] / counts[few]:.4g}."
    )


def _size_reason(size: int, sizes: Sizes, by: str | None) -> str:
    """Return the reason for the image size, with what the headers say; by: the option that set it."""
    low, high = sizes.sides[0], sizes.sides[-1]
    span = f"{low:,} pixels" if low == high else f"{low:,} to {high:,} pixels, {sizes.median:,} in the middle"
    found = f"shorter sides are {span}, by the headers of {len(sizes.sides):,} of {sizes.of:,} images"
    why = f"the largest of {_listed(_COMMON)} that upscales at most half of the images"
    if by is not None:
        why = f"by {by}"
    elif size > sizes.median:
        why = "the smallest that StudioGAN has"
    upscaled = sizes.smaller_than(size)
    return f"{size}: {why}; {found}{f'; {upscaled:,} of these are upscaled' if upscaled else ''}."


def _notes(sizes: Sizes) -> list[str]:
    notes = []
    if sizes.unreadable:
        looked_at = len(sizes.sides) + len(sizes.unreadable)
        notes.append(
            f"{len(sizes.unreadable)} of {looked_at:,} images cannot be opened, the first is {sizes.unreadable[0]}; "
            "remove them, or `studiogan-gsr data prepare --skip-damaged` leaves them out"
        )
    for what, modes in (
        ("have more than 8 bits per channel and cannot be trained on; convert them", {*DEEP_MODES}),
        ("are no RGB images; they become RGB", {*sizes.modes} - {"RGB", *DEEP_MODES}),
    ):
        if number := sum(sizes.modes[mode] for mode in modes):
            found = ", ".join(sorted(modes & {*sizes.modes}))
            notes.append(f"{number:,} of {len(sizes.sides):,} images ({found}) {what}")
    return notes


def _missing_reference(layout: Layout, was_split: bool) -> str | None:
    """Return what prevents measuring against reference images, and what to do; None if nothing does.

    was_split: whether `write_split` has made the folder, so that splitting it again does not help.
    """
    split = f"; add {_split_option(layout.root)}, which writes a folder with both, or train without measuring"
    valid = f"{REFERENCE[0]}/"
    try:
        reference = layout.reference_images()
        if reference is None:
            none = "; none was held out, as by --hold-out 0 or where a class has a single image"
            return f"{valid}, the images to measure against{none if was_split else split}"
        if layout.reference != REFERENCE[0]:
            return f"{valid}, which is called {layout.reference}/ here; rename it{split}"
        counts = np.bincount(reference.targets).tolist()
        if min(counts) < 2:  # a checkpoint is chosen on one half and measured on the other
            return f"two images of each class in {valid} to measure against; add some"
        if min(counts) < max(counts):
            return f"a balanced {valid}, whose classes now have {min(counts):,} to {max(counts):,} images{split}"
        folder_lt(str(layout.root), "reference")
    except GSRError as error:
        return f"a {valid} that can be measured against: {error}"
    return None


def _few_references(layout: Layout) -> list[str]:
    """Return a note if a class has too few images to be measured against by itself."""
    reference = layout.reference_images()
    fewest = 0 if reference is None else int(np.bincount(reference.targets).min())
    if fewest >= _ENOUGH_REFERENCES:
        return []
    return [
        f"{REFERENCE[0]}/ has {fewest:,} images of each class: too few to measure single classes by; from "
        f"{_ENOUGH_REFERENCES} on, their precision, recall and coverage say something"
    ]


def _write(out: Path, proposal: Proposal, images: str, overwrite: bool) -> list[Path]:
    """Write the two files and return their paths; RequestError if another file is there."""
    texts = {
        out / name: proposal_text(proposal, images, with_gsr)
        for name, with_gsr in zip(NAMES, (False, True), strict=True)
    }
    try:
        for path, text in texts.items():
            if path.exists() and not overwrite and path.read_bytes() != text.encode():
                raise RequestError(f"{path} exists and differs; --overwrite replaces it, --out names another folder")
        out.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            write_atomically(path, text)
    except OSError as error:
        raise RequestError(f"--out {out}: cannot be written ({reason(error)}); name another folder") from error
    return list(texts)


def _next_steps(files: Sequence[Path], root: Path, size: int, resized: bool, measuring: str) -> list[str]:
    """Return the commands that look at the folder, train on it, and compare the two runs.

    measuring: the option of `train` that measures; "" if nothing can be measured.
    """
    data = quote(str(root))
    runs = [f"runs/{path.stem}" for path in files]
    native = (f" --resizer {_RESIZER}" if resized else "") + measuring
    lines = [
        "Commands for it:",
        f"  studiogan-gsr data show Folder_LT --data {data}",
        *(
            f"  studiogan-gsr train {quote(str(path))} --data {data} --out {run}{native}"
            for path, run in zip(files, runs, strict=True)
        ),
        f"  studiogan-gsr report {' '.join(runs)}",
    ]
    if size < STUDIOGANS_SMALLEST:
        return [*lines, f"StudioGAN has no {size} pixels: --size {STUDIOGANS_SMALLEST} writes files for both hosts."]
    theirs = f"-metrics fid -ref {REFERENCE[0]}" if measuring else "-metrics none"
    theirs += f" --pre_resizer {_RESIZER}" if resized else ""
    saves = [f"runs/studiogan-{path.stem}" for path in files]  # one each: report and evaluate read one run per folder
    return [
        *lines,
        "In StudioGAN itself, in place of train and report (without a GPU, --device cpu before the --):",
        *(
            f"  studiogan-gsr studiogan run -- -t {theirs} --seed 0 -cfg {quote(str(path))} -data {data} -save {save}"
            for path, save in zip(files, saves, strict=True)
        ),
        f"  studiogan-gsr report {' '.join(saves)}",
    ]
