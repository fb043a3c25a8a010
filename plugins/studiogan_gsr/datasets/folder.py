"""Folder_LT: any image folder with train/<class>/ and valid/<class>/."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from PIL import Image

from studiogan_gsr.datasets.images import ImageFiles, checked_reference, listing
from studiogan_gsr.datasets.long_tailed import View, Whole, check_split
from studiogan_gsr.datasets.variant import Variant
from studiogan_gsr.errors import DataError, reason

# torchvision's extensions, and others that Pillow opens and that cameras, browsers or crawlers write.
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}) | {
    *(".jfif", ".jpe", ".pjpeg", ".pjp", ".jp2", ".j2k", ".jpx", ".jpf", ".mpo"),
    *(".gif", ".apng", ".avif", ".heic", ".heif", ".pbm", ".pnm", ".tga", ".dib"),
}
# Names of system files and folders that Windows, macOS' archiver and storage servers add, without a leading dot.
_SYSTEM_NAMES = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "#recycle", "$recycle.bin", "lost+found"}


def folder_lt(
    root: str,
    split: str,
    ratio: float | None = None,
    profile: str = "exp",
    seed: int = 0,
    reversed: bool = False,
) -> View:
    """Return an image folder made long-tailed by `ratio`, or unchanged without a ratio.

    "train": images of train/; "reference": all of valid/, which must be balanced and share no file with "train".
    Images are turned as their EXIF orientation tags say, which StudioGAN ignores.  Then they are prepared as there:
    cropped to the middle square, and resized only if the user asks for it.
    """
    check_split(split)
    variant = Variant(ratio, profile, seed, reversed)
    layout = (
        f"{Path(root).resolve()} needs train/ and valid/, each with one folder of images per class (from class "
        "folders alone, `studiogan-gsr init --split` makes both)"
    )
    train = variant.view(class_folders(Path(root), "train", layout, upright=True))
    if split == "train":
        return train
    reference = class_folders(Path(root), "valid", layout, upright=True)
    return checked_reference(train, Whole(reference, reference.classes), "Folder_LT", published=False)


def class_folders(root: Path, folder: str, layout: str, upright: bool = False) -> ImageFiles:
    """Return the images of root/folder/<class>/, at any depth, in the order of torchvision's ImageFolder.

    An image is a file with one of EXTENSIONS that this Pillow opens; an animation counts as its first frame.
    Hidden files and folders are skipped.  `notes` says what was skipped.
    layout: the expected layout, for error messages.  upright: see `ImageFiles`.
    Raises DataError if there is no class, or if a class has no image.
    """
    top = root / folder
    if not os.path.isdir(top):
        raise DataError(f"{layout}; found: {listing(root)}")
    try:
        entries = sorted(os.scandir(top), key=lambda entry: entry.name)
    except OSError as error:
        _raise(error)
    classes = [entry.name for entry in entries if entry.is_dir() and not is_hidden(entry.name)]
    if not classes:
        raise DataError(f"{layout}; in {folder}/: no class folder, found: {listing(top)}")
    taken = _readable_extensions()
    names: list[str] = []
    targets: list[int] = []
    left_out = _LeftOut()
    for entry in entries:
        if is_hidden(entry.name):
            left_out.hidden += 1
        elif not entry.is_dir():
            left_out.outside[_extension(entry.name)] += 1
    for label, name in enumerate(classes):
        before = len(names)
        for place, files in _walk(str(top / name), left_out):
            below = Path(place).relative_to(root).as_posix()
            images = [file for file in files if _extension(file) in taken]
            left_out.unknown.update(_extension(file) for file in files if _extension(file) not in taken)
            names += [f"{below}/{file}" for file in images]
            targets += [label] * len(images)
        if len(names) == before:
            left_out.empty.append(name)
    notes = left_out.notes(folder)
    if left_out.empty:
        found = "; ".join(notes) or "the folders are empty"
        raise DataError(f"{layout}; in {folder}/: no image of {', '.join(left_out.empty[:10])} ({found})")
    return ImageFiles(root, names, targets, classes, notes, upright)


def _readable_extensions() -> frozenset[str]:
    """Return those EXTENSIONS that the installed Pillow can open."""
    # Browsers also save JPEG files as .pjpeg and .pjp, which Pillow opens but does not register.
    return EXTENSIONS & {*Image.registered_extensions(), ".pjpeg", ".pjp"}


def is_hidden(name: str) -> bool:
    """Return whether a name is that of a hidden or system file or folder, which is neither an image nor a class."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def differences(root: Path, folder: str, theirs: Iterable[str]) -> list[str]:
    """Return lines on how the images of torchvision's ImageFolder differ from those of `class_folders`.

    If they agree, return only the notes of `class_folders`, which may be none.
    theirs: the paths of ImageFolder's images in root/folder.
    """
    try:
        ours = class_folders(root, folder, "")
    except DataError:  # the caller's error names what is missing
        return []
    theirs = {Path(path).relative_to(root).as_posix() for path in theirs}
    known = {ours.where(i) for i in range(len(ours))}
    more, unknown = sorted(theirs - known), Counter(_extension(name) for name in known - theirs)
    lines = (
        [f"torchvision also counts {len(more):,} files that are hidden or reached twice, the first is {more[0]}"]
        if more
        else []
    )
    if unknown:
        lines.append(f"torchvision leaves out {_counted(unknown)}, which Pillow opens")
    if not lines:
        return list(ours.notes)
    counted = "; ".join([f"{len(ours):,} images of {len(ours.classes)} classes", *ours.notes])
    return [*lines, f"under the DATA.name Folder_LT: {counted}"]


class _LeftOut:
    """What `class_folders` left out: files by extension, hidden names, links to a parent, classes without images."""

    def __init__(self) -> None:
        self.hidden = 0
        self.outside: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self.loops: list[str] = []
        self.empty: list[str] = []

    def notes(self, folder: str) -> list[str]:
        lines = []
        unreadable = Counter({key: number for key, number in self.unknown.items() if key in EXTENSIONS})
        if unreadable:
            why = "images that this Pillow does not open; convert them to PNG or JPEG"
            lines.append(f"{folder}/: left out {_counted(unreadable)}: {why}")
        if others := self.unknown - unreadable:
            lines.append(f"{folder}/: left out {_counted(others)}: no images by their extensions")
        if self.outside:
            lines.append(f"{folder}/: left out {_counted(self.outside)} beside the class folders")
        if self.hidden:
            lines.append(f"{folder}/: left out {self.hidden:,} hidden files or folders")
        if self.loops:
            lines.append(f"{folder}/: left out links to a parent folder, the first is {min(self.loops)}")
        return lines


def _walk(top: str, left_out: _LeftOut) -> list[tuple[str, list[str]]]:
    """Return a list of (folder, names of its files) below `top`, following links, in torchvision's order."""
    found = []
    # For each folder still to visit, the real paths of the folders on the way to it, links followed, and its own.
    above: dict[str, tuple[str, ...]] = {top: (os.path.realpath(os.path.dirname(top)), os.path.realpath(top))}
    for place, folders, files in os.walk(top, onerror=_raise, followlinks=True):
        real = above.pop(place)
        shown = [name for name in folders if not is_hidden(name)]
        hidden = len(folders) - len(shown)
        folders.clear()
        for name in shown:
            path = os.path.join(place, name)
            target = os.path.realpath(path) if os.path.islink(path) else os.path.join(real[-1], name)
            if os.path.islink(path) and _leads_up(target, real):
                left_out.loops.append(path)
            else:
                folders.append(name)
                above[path] = (*real, target)
        visible = sorted(name for name in files if not is_hidden(name))
        left_out.hidden += len(files) - len(visible) + hidden
        found.append((place, visible))
    return sorted(found)


def _raise(error: OSError) -> NoReturn:
    raise DataError(f"a folder of images cannot be read: {reason(error)}") from error


def _leads_up(target: str, above: Iterable[str]) -> bool:
    """Return whether a link's target is one of these folders or contains one: following the link would never end.

    above: the real paths of the link's folder and of all folders on the way to it.
    """
    return any(os.path.join(folder, "").startswith(os.path.join(target, "")) for folder in above)


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _counted(extensions: Counter[str]) -> str:
    """Return the counts as text, such as '10 .jfif, 2 without extension', the most frequent first."""
    ordered = sorted(extensions.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{number:,} {extension or 'without extension'}" for extension, number in ordered[:8]]
    rest = len(ordered) - len(parts)
    return ", ".join([*parts, f"files of {rest} other extensions"] if rest else parts)
