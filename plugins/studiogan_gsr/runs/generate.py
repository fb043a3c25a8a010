"""Store images of chosen classes from a trained generator, with a record of where each comes from."""

from __future__ import annotations

import dataclasses
import errno
import json
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from studiogan_gsr.class_groups import listed
from studiogan_gsr.datasets.identity import digest, where
from studiogan_gsr.datasets.labels import label_of, some_names
from studiogan_gsr.datasets.preprocessing import Prepared
from studiogan_gsr.errors import DataError, EvaluationError, RequestError, reason
from studiogan_gsr.evaluation.class_images import ClassImages
from studiogan_gsr.files import write_atomically
from studiogan_gsr.machine import choose_device, device_name, free_memory
from studiogan_gsr.progress import console, counting
from studiogan_gsr.runs.evaluate import real_images
from studiogan_gsr.runs.generator import check_conditional
from studiogan_gsr.runs.image_files import ImageArray, ImageStore, PNGFolder, folder_names
from studiogan_gsr.runs.options import EvaluateOptions, GenerateOptions
from studiogan_gsr.runs.staging import remove_notes, staged
from studiogan_gsr.runs.trained import Trained, load_trained

MANIFEST = "manifest.json"
_DEFAULT = 100  # images of each class
_READ = 64  # training images that are read together
_ROW = 1500  # bytes of memory for an image's row and its line in the manifest
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclasses.dataclass(frozen=True)
class _Row:
    """One image.  number: of a generated image, in its class; of a training image, its index in the set."""

    label: int
    number: int
    real: bool

    def file(self, folders: Sequence[str]) -> str:
        return f"{folders[self.label]}/{'real_' if self.real else ''}{self.number:06}.png"


def generate(path: Path, options: GenerateOptions) -> Path | None:
    """Write the images and `manifest.json` to the folder `options.out`, whole or not at all; return the folder.

    Returns None if there is nothing to generate.  An interrupted command resumes when it is started again.
    Raises RequestError, ConfigurationError, CheckpointError, DataError or HostError before the first image is
    generated; EvaluationError if one is not finite; DataError if the disk is full.
    """
    trained = load_trained(path, options.config, options.averaged, options.checkpoint)
    check_conditional(trained)
    labels = _chosen(options.classes, trained.classes)
    real = _real(trained, options) if options.with_real or (options.fill and options.data) else None
    numbers = _numbers(trained, real, options, labels)
    show = console()
    if not any(numbers.values()):
        show.print(
            "nothing to generate, and nothing written: every chosen class has as many training images as it is "
            "filled up to"
        )
        return None
    _check_number(sum(numbers.values()))
    rows = [_Row(label, i, False) for label, number in numbers.items() for i in range(number)]
    if real is not None and options.with_real:
        rows = [*(_Row(label, i, True) for i, label in enumerate(real.targets) if label in numbers), *rows]
        if empty := [trained.classes[label] for label in labels if not real.class_counts[label]]:
            show.print(f"classes without training images: {some_names(empty)}")
    device = torch.device(choose_device(options.device))
    images = ClassImages(
        trained.generator,
        trained.configuration,
        seed=options.seed,
        batch_norm=options.batch_norm,
        truncation=options.truncation,
        batch_size=options.batch_size,
        device=device,
    )
    request = _request(trained, options, images, numbers, real)
    if _is_there(options.out, request):
        show.print(f"{options.out} has these images already")
        return options.out
    show.print(
        f"generating {sum(numbers.values()):,} images, by class "
        f"{listed(list(numbers.values()), [trained.classes[label] for label in numbers])}, from step "
        f"{trained.step}: {options.batch_norm} batch-norm statistics, seed {options.seed}"
    )
    if options.batch_norm == "batch":
        show.print(
            f"batch statistics: an image depends on the others of its batch of {images.batch_size}, so other batch "
            "sizes give other images"
        )
    try:
        with staged(options.out, request) as folder:
            store = _store(folder, options.format, rows, folder_names(trained.classes), images, trained)
            seconds = _fill(store, rows, images, real)
            origins = _origins(options.format, rows, trained, real)
            write_atomically(folder / MANIFEST, _manifest(trained, request, device, real, origins))
    except EvaluationError as error:
        raise EvaluationError(f"{trained.folder}: {error}") from error
    except OSError as error:
        full = "; free some space, then the same command resumes" if error.errno in _FULL else ""
        raise DataError(f"{options.out} cannot be written: {reason(error)}{full}") from error
    whole = max(seconds.whole, 1e-9)
    show.print(
        f"written to {options.out}: {seconds.images:,} generated images, {seconds.images / whole:,.0f} a second; "
        f"making them took {seconds.generator / whole:.0%} of the time, storing them the rest"
    )
    folders = folder_names(trained.classes)
    if options.format == "folder" and folders != sorted(folders):
        show.print(
            "folders sort in another order than the classes: labels of an ImageFolder are not those of the run, "
            f"which are in {MANIFEST}"
        )
    return options.out


def _chosen(names: Sequence[str] | None, classes: Sequence[str]) -> list[int]:
    """Return the labels of the named classes, each once, in label order; all if None."""
    return list(range(len(classes))) if names is None else sorted({label_of(name, classes) for name in names})


def _real(trained: Trained, options: GenerateOptions) -> Prepared:
    return real_images(trained, EvaluateOptions(data=options.data, resizer=options.resizer), "train")[0]


def _numbers(
    trained: Trained, real: Prepared | None, options: GenerateOptions, labels: Sequence[int]
) -> dict[int, int]:
    """Return the number of images to generate of each chosen label."""
    if options.fill is None:
        return dict.fromkeys(labels, options.images or _DEFAULT)
    if options.images is not None:
        raise RequestError("--images and --fill: found both; give --images for a number of each class, or --fill")
    counts = trained.data.get("class_counts") if real is None else real.class_counts
    if not counts:
        raise RequestError("--fill: the run's record has no class counts; --data names the folder of its images")
    target = max(counts) if options.fill < 0 else options.fill
    return {label: max(0, target - int(counts[label])) for label in labels}


def _check_number(images: int) -> None:
    if (needed := _ROW * images) > (free := free_memory()):
        raise RequestError(
            f"found {images:,} images to generate; the list of them needs {needed / 1e9:.3g} GB of memory, and "
            f"{free / 1e9:.3g} GB are free: fewer, several times, each with its own --seed and --out"
        )


def _request(
    trained: Trained, options: GenerateOptions, images: ClassImages, numbers: dict[int, int], real: Prepared | None
) -> dict[str, Any]:
    """Return everything that determines the images, as plain data."""
    configuration = trained.configuration
    return {
        "checkpoint_sha256": trained.sha256,
        "checkpoint_rule": trained.rule,
        "step": trained.step,
        "averaged_generator": trained.averaged,
        "configuration": configuration.sections(),
        "seed": options.seed,
        "batch_norm": options.batch_norm,
        "batch_size": images.batch_size,
        "truncation": options.truncation,
        "format": options.format,
        "pixels": configuration.DATA.img_size,
        "classes": trained.classes,
        "generated": [numbers.get(label, 0) for label in range(len(trained.classes))],
        "training_images_sha256": None if real is None else digest(real.dataset),
        "preprocessing": None if real is None else real.preprocessing.record(),
        "options": {
            name: value for name, value in dataclasses.asdict(options).items() if name not in ("out", "device")
        },
    }


def _is_there(out: Path, request: dict[str, Any]) -> bool:
    """Return whether `out` has these images; raise RequestError if it has anything else."""
    if not out.exists():
        return False
    if not out.is_dir():
        raise RequestError(f"--out {out}: found a file; name a new folder")
    if not (inside := sorted(path.name for path in out.iterdir())):
        return False
    try:
        manifest = json.loads((out / MANIFEST).read_text())
        if {key: manifest.get(key) for key in request} == json.loads(json.dumps(request)):
            remove_notes(out)
            return True
        found = "images that another command generated"
    except (OSError, ValueError, AttributeError):
        found = f"a folder with {', '.join(inside[:3])}{', ...' if len(inside) > 3 else ''}"
    raise RequestError(f"--out {out}: found {found}; name a new folder")


def _store(
    folder: Path, format: str, rows: Sequence[_Row], folders: Sequence[str], images: ClassImages, trained: Trained
) -> ImageStore:
    if format == "folder":
        return PNGFolder(folder, [row.file(folders) for row in rows])
    return ImageArray(folder, [row.label for row in rows], int(trained.configuration.DATA.img_size), format)


@dataclasses.dataclass
class _Seconds:
    """Seconds spent in the generator, and altogether, on a number of generated images."""

    generator: float = 0.0
    whole: float = 0.0
    images: int = 0


def _fill(store: ImageStore, rows: Sequence[_Row], images: ClassImages, real: Prepared | None) -> _Seconds:
    """Store every row that is missing."""
    missing = store.missing()
    generated = [row for row in missing if not rows[row].real]
    copied = [row for row in missing if rows[row].real]
    seconds, began = _Seconds(images=len(generated)), time.perf_counter()
    try:
        with counting("generating", len(missing)) as advance:
            batches = images.batches([(rows[row].label, rows[row].number) for row in generated])
            while True:
                since = time.perf_counter()
                some, places = next(batches, (None, []))
                pixels = None if some is None else some.permute(0, 2, 3, 1).contiguous().cpu().numpy()
                seconds.generator += time.perf_counter() - since
                if pixels is None:
                    break
                store.write([generated[place] for place in places], pixels)
                advance(len(places))
            seconds.whole = time.perf_counter() - began
            for first in range(0, len(copied), _READ):
                assert real is not None
                some_rows = copied[first : first + _READ]
                store.write(some_rows, np.stack([real.read(rows[row].number)[0] for row in some_rows]))
                advance(len(some_rows))
    except BaseException:
        store.close()
        raise
    store.finish()
    return seconds


def _origins(format: str, rows: Sequence[_Row], trained: Trained, real: Prepared | None) -> list[dict[str, Any]]:
    """Return where each image comes from, by file or by row of the array."""
    folders = folder_names(trained.classes)
    origins = []
    for place, row in enumerate(rows):
        name = {"file": row.file(folders)} if format == "folder" else {"row": place}
        if row.real:
            assert real is not None
            origin = {"origin": "training image", "index": row.number, "source": where(real.dataset, row.number)}
        else:
            origin = {"origin": "generated", "number": row.number}
        origins.append({**name, "class": row.label, **origin})
    return origins


def _manifest(
    trained: Trained,
    request: dict[str, Any],
    device: torch.device,
    real: Prepared | None,
    origins: Sequence[dict[str, Any]],
) -> str:
    """Return the manifest as JSON, with a line for each image."""
    facts = {
        **request,
        "checkpoint": str(trained.file.resolve()),
        "data": trained.configuration.DATA.name,
        "training_images": None if real is None else real.class_counts,
        "device": device_name(device.type),
        "versions": {package: version(package) for package in ("studiogan-gsr", "torch", "numpy")},
        "time": datetime.now(timezone.utc).isoformat(),
    }
    head = json.dumps(facts, indent=1, ensure_ascii=False).removesuffix("\n}")
    images = ",\n".join(json.dumps(origin, ensure_ascii=False) for origin in origins)
    return f'{head},\n "images": [\n{images}\n]}}\n'
