"""Train and measure what a table needs, run by run; what has a valid record is not run again.

    python benchmarks/run.py TABLE --data DIR                all rows and seeds, one run a GPU at a time
    python benchmarks/run.py TABLE --data DIR --dry-run      only say what would run, and what it would cost
    python benchmarks/run.py TABLE --data DIR --only ROW --seeds 0 1

A run that was interrupted goes on where it was; one that fails is listed at the end and does not stop the others.
Records are in benchmarks/results/records (--records), runs below runs/tables (--out).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import records
from filelock import FileLock, Timeout
from paper_tables import FILE, Protocol, Row, read_tables
from records import Record, RecordError

from studiogan_gsr.analysis.spectrum import start_norms
from studiogan_gsr.analysis.trained import load_trained
from studiogan_gsr.errors import GSRError, RequestError, in_one_line, near_miss, reason
from studiogan_gsr.evaluation.spectrum import largest_class_norms
from studiogan_gsr.files import lines_by_step, write_atomically
from studiogan_gsr.registry import find_dataset

PACKAGES = ("studiogan-gsr", "torch", "torchvision", "numpy")
_PRINT = 100  # steps between log lines, which hold the penalties of a record


@dataclass(frozen=True)
class Run:
    """One seed of a row; plain data, so that it reaches another process.

    title: for people.  out: the run's folder.
    """

    key: str
    title: str
    sections: dict[str, Any]
    seed: int
    protocol: Protocol
    data: str
    out: str
    records: str
    device: str | None

    @property
    def steps(self) -> int:
        return int(self.sections["OPTIMIZATION"]["total_steps"])

    def done(self) -> tuple[Record | None, str]:
        """Its record, or why there is none that is valid."""
        path = records.path_of(self.key, Path(self.records))
        try:
            return (records.read(path, self.key), "") if path.is_file() else (None, "")
        except RecordError as error:
            return None, str(error)


def planned(rows: Sequence[Row], seeds: Sequence[int] | None, data: str, out: Path, folder: Path) -> list[Run]:
    """The runs of rows that are run, each once."""
    runs: dict[str, Run] = {}
    for row in rows:
        if row.sections is None or row.protocol is None:
            continue
        for seed in row.seeds if seeds is None else seeds:
            protocol = dataclasses.asdict(row.protocol)
            key = records.key_of("native", row.sections, seed, protocol)
            title = f"{row.table}: {row.name}, seed {seed}"
            place = str((out / key).resolve())
            sections = dict(row.sections)
            runs.setdefault(
                key, Run(key, title, sections, seed, row.protocol, data, place, str(folder.resolve()), None)
            )
    return list(runs.values())


def perform(run: Run) -> Path:
    """Train, measure the last and the best checkpoint, write the record; gives its path.

    Goes on with what is there.  Raises what training and evaluation raise, and RecordError where the run does not
    prove what its record says.
    """
    from studiogan_gsr.analysis import evaluate as evaluation
    from studiogan_gsr.hosts.native.run import Options, train
    from studiogan_gsr.hosts.native.selection import evaluations

    out, protocol = Path(run.out), run.protocol
    trainer = train(
        run.sections,
        Options(
            data=run.data,
            out=out,
            device=run.device,
            seed=run.seed,
            resume=(out / "config.yaml").is_file(),
            print_freq=min(_PRINT, run.steps),
            save_freq=protocol.every,
            evaluate=protocol.images_while_training,
            select_on=protocol.select_on,
            backbone=protocol.backbone,
            resizer=protocol.resizer,
            label=run.title,
        ),
    )
    began = time.perf_counter()
    results = {}
    for which in records.WHICH:
        # The best that was chosen on one half is measured on the other, and the last with it.
        split = "reference" if protocol.select_on == "reference" else "test"
        how = evaluation.Options(
            data=run.data,
            backbone=protocol.backbone,
            images=protocol.images,
            repeats=protocol.repeats,
            split=split,
            batch_norm=protocol.batch_norm,
            best=which == "best",
            neighbours=protocol.neighbours,
            resizer=protocol.resizer,
            lpips=False,  # a record does not depend on what else is installed
            device=run.device,
        )
        results[which] = evaluation.evaluate(out, how)
        results[which]["protocol"]["checkpoint"] = Path(results[which]["protocol"]["checkpoint"]).name
    told, log = json.loads((out / "run.json").read_text()), lines_by_step(out / "log.jsonl")
    regularization = trainer.regularization
    plugins = [str(found[0].plugin)] if (found := find_dataset(told["data"]["name"])) else []
    plugins += [str(regularization.plugin)] if regularization is not None else []
    starts = [{**start, "checkpoint": None} if "checkpoint" in start else start for start in told["starts"]]
    rank = {
        "device": told["device"],
        "packages": {name: version(name) for name in PACKAGES},
        "plugins": plugins,
        "regularizer": None if regularization is None else regularization.summary,
        "acted": 0 if regularization is None else regularization.acted,
    }
    penalty = f"{regularization.name}/penalty" if regularization is not None else ""
    record = Record(
        version=records.VERSION,
        key=run.key,
        title=run.title,
        host={"name": "native", "speed": told["speed"], "starts": starts},
        sections=run.sections,
        seed=run.seed,
        protocol=dataclasses.asdict(protocol),
        data={key: value for key, value in told["data"].items() if key not in ("root", "packed")},
        steps=trainer.steps,
        ranks=[rank],
        penalties=[(line["step"], line[penalty]) for line in log if penalty in line],
        course=[_course(line) for line in evaluations(out)],
        norms=_norms(out, run.seed),
        hours={
            "training": log[-1]["seconds"] / 3600,
            "evaluation while training": sum(line["seconds"] for line in evaluations(out)) / 3600,
            "evaluation": (time.perf_counter() - began) / 3600,
        },
        results=results,
        git=records.git_state(Path(__file__).parent),
        time=datetime.now(timezone.utc).isoformat(),
    )
    return records.write(record, Path(run.records))


def _course(line: dict[str, Any]) -> dict[str, Any]:
    """What a record keeps of an evaluation while training."""
    distances = {"frechet": line["all"]["frechet"], "tail": line["groups"].get("tail", {}).get("frechet")}
    return {"step": line["step"], **distances, "class_norms": line["class_norms"]}


def _norms(out: Path, seed: int) -> dict[str, list[float]]:
    """Of each class the largest exact spectral norm; nothing of an unconditional generator."""
    found = {which: load_trained(out, averaged=False, best=which == "best") for which in records.WHICH}
    configuration = found["last"].configuration
    if configuration.MODEL.g_cond_mtd == "W/O":
        return {}
    norms = {which: largest_class_norms(trained.generator).tolist() for which, trained in found.items()}
    norms["start"] = start_norms(found["last"].untrained(seed), configuration, "square")
    return {which: [round(norm, 5) for norm in of_classes] for which, of_classes in norms.items()}


def one(specification: Path) -> int:
    """The run that a file describes, in this process; its exit status."""
    content = json.loads(specification.read_text())
    run = Run(**{**content, "protocol": Protocol(**content["protocol"])})
    try:
        Path(run.records).mkdir(parents=True, exist_ok=True)
        with FileLock(Path(run.records) / f".{run.key}.lock", timeout=0):
            if run.done()[0] is None:  # another process may have made it since
                perform(run)
    except Timeout:
        print(f"run.py: {run.title}: another process is at it", file=sys.stderr)
        return 1
    except Exception as error:
        told = in_one_line(error)
        print(f"run.py: {run.title}: {told.text}", file=sys.stderr)
        return told.exit_status
    return 0


def perform_all(runs: Sequence[Run], places: Sequence[dict[str, str]]) -> list[str]:
    """Each run in a process of its own, as many at a time as there are places; gives what failed.

    places: of each, what the environment of its processes has more (which GPU).
    """
    waiting: queue.SimpleQueue[Run] = queue.SimpleQueue()
    for run in runs:
        waiting.put(run)
    failed: list[str] = []
    number = len(runs)

    def work(environment: dict[str, str]) -> None:
        while True:
            try:
                run = waiting.get_nowait()
            except queue.Empty:
                return
            print(f"begun: {run.title} ({number - waiting.qsize()} of {number}), output in {run.out}.log", flush=True)
            began = time.perf_counter()
            try:
                status, last = _in_a_process(run, environment)
            except OSError as error:
                status, last = 1, reason(error)
            if status == 0:
                print(f"done: {run.title}, {(time.perf_counter() - began) / 3600:.2f} h", flush=True)
            else:
                failed.append(f"{run.title}: status {status}: {last}")
                print(f"failed: {failed[-1]}", flush=True)

    workers = [threading.Thread(target=work, args=(place,)) for place in places]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return failed


def _in_a_process(run: Run, environment: dict[str, str]) -> tuple[int, str]:
    """The exit status, and the last line that it printed."""
    out = Path(run.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    specification, log = out.with_suffix(".json"), out.with_suffix(".log")
    write_atomically(specification, json.dumps(dataclasses.asdict(run)))
    with log.open("a") as file:
        command = [sys.executable, __file__, "--one", str(specification)]
        status = subprocess.call(command, stdout=file, stderr=file, env={**os.environ, **environment})
    return status, (log.read_text(errors="replace").splitlines() or ["no output"])[-1]


def gpus(device: str | None) -> list[dict[str, str]]:
    """An environment for each GPU; one without anything where the CPU trains."""
    import torch

    number = 0 if device == "cpu" else torch.cuda.device_count()
    known = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    names = known if known != [""] else [str(i) for i in range(number)]
    return [{"CUDA_VISIBLE_DEVICES": name} for name in names[:number]] or [{}]


def cost(runs: Sequence[Run], folder: Path) -> list[str]:
    """What runs would take: hours, of configurations that some record has timed, and disk."""
    speeds: dict[tuple[str, str], list[float]] = {}
    for path in folder.glob("*.json"):
        try:
            record = records.read(path, path.stem)
        except RecordError:
            continue
        what = _shape(record.sections), str(record.ranks[0]["device"])
        speeds.setdefault(what, []).append(sum(record.hours.values()) / record.steps)
    lines, gigabytes = [], 0.0
    for run in runs:
        timed = {
            device: sum(hours) / len(hours) * run.steps
            for (shape, device), hours in speeds.items()
            if shape == _shape(run.sections)
        }
        told = ", ".join(f"{hours:.1f} h on {device}" for device, hours in sorted(timed.items()))
        lines.append(f"{run.title}: {run.steps:,} steps, {told or 'no record tells the time'}")
        gigabytes += _gigabytes(run.sections)
    lines.append(f"disk: {gigabytes:.1f} GB for three checkpoints a run (the last two and the best)")
    return lines


def _shape(sections: dict[str, Any]) -> str:
    """What a step's time depends on."""
    data = {key: value for key, value in sections["DATA"].items() if key != "name"}
    steps = {key: value for key, value in sections["OPTIMIZATION"].items() if key != "total_steps"}
    rest = {key: value for key, value in sections.items() if key not in ("DATA", "OPTIMIZATION", "REGULARIZER")}
    return json.dumps([data, steps, rest], sort_keys=True)


def _gigabytes(sections: dict[str, Any]) -> float:
    """Of three checkpoints: weights, two moments of Adam, and an averaged generator."""
    from studiogan_gsr.hosts.native.configuration import read_configuration
    from studiogan_gsr.hosts.native.networks import make_networks

    configuration = read_configuration(sections)
    generator, discriminator = (sum(p.numel() for p in n.parameters()) for n in make_networks(configuration, 0))
    floats = 3 * (generator + discriminator) + generator * configuration.MODEL.apply_g_ema
    return 3 * 4 * floats / 1e9


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", help="of tables.yaml")
    parser.add_argument("--data", metavar="DIR", help="where the data sets are, or are downloaded to")
    parser.add_argument("--only", metavar="ROW", action="append", help="this row; may be given again")
    parser.add_argument("--seeds", type=int, nargs="+", help="in place of the table's")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("runs/tables"))
    parser.add_argument("--records", metavar="DIR", type=Path, default=records.FOLDER)
    parser.add_argument("--tables", metavar="FILE", type=Path, default=FILE)
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is one")
    parser.add_argument("--dry-run", action="store_true", help="only say what would run, and what it would cost")
    parser.add_argument("--one", metavar="FILE", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.one is not None:
        return one(options.one)
    try:
        return _run(options)
    except GSRError as error:
        print(f"run.py: {in_one_line(error).text}", file=sys.stderr)
        return error.exit_status


def _run(options: argparse.Namespace) -> int:
    tables = read_tables(options.tables).tables
    if options.table not in tables:
        hint = near_miss(str(options.table), tables)
        raise RequestError(f"TABLE: found {options.table}; allowed: {', '.join(tables)}{hint}")
    rows = tables[options.table].rows
    for name in options.only or []:
        if name not in rows:
            raise RequestError(f"--only: found {name}; allowed: {'; '.join(rows)}{near_miss(name, rows)}")
    if options.data is None and not options.dry_run:
        raise RequestError("--data is needed: where the data sets are, or are downloaded to")
    wanted = [row for name, row in rows.items() if not options.only or name in options.only]
    for seed in options.seeds or []:
        if any(row.seeds and seed not in row.seeds for row in wanted):
            print(f"seed {seed} is not one of the table's: its record is kept, and no table shows it")
    runs = planned(wanted, options.seeds, str(options.data), options.out, options.records)
    if not runs:
        raise RequestError(f"{options.table}: none of these rows is run; they are other people's values")
    todo = []
    for run in runs:
        record, why = run.done()
        if record is not None:
            print(f"has a record: {run.title} ({run.key})")
            continue
        if why:
            print(f"its record is refused: {why}")
        todo.append(dataclasses.replace(run, device=options.device))
    if options.dry_run:
        print("\n".join([f"{len(todo)} of {len(runs)} runs are to be made:", *cost(todo, options.records)]))
        return 0
    failed = perform_all(todo, gpus(options.device))
    print(f"{sum(run.done()[0] is not None for run in runs)} of {len(runs)} runs have records")
    for line in failed:
        print(f"failed: {line}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
