"""What this machine has, and what is said where it does not have what a run asks for."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from studiogan_gsr import machine
from studiogan_gsr.cli import main
from studiogan_gsr.errors import RequestError
from studiogan_gsr.files import write_atomically
from studiogan_gsr.hosts.studiogan import doctor, launcher
from studiogan_gsr.hosts.studiogan.hooked.checkpoints import CheckpointHooks
from studiogan_gsr.hosts.studiogan.hooked.state import HookedRun
from support.runs import PLAIN, arguments, write

CPU = torch.device("cpu")
GIB = 1 << 30
Limited = Callable[[str, dict[str, str]], None]


@pytest.fixture
def old_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "bfloat16_instructions", lambda: False)


# bfloat16.


@pytest.mark.parametrize(
    ("onednn", "flags", "expected"),
    [
        (True, "avx2 avx512f avx512_bf16", True),
        (True, "avx512f amx_bf16 amx_tile", True),
        (True, "Features : fp asimd bf16", True),
        (True, "avx2 avx512f avx512_vnni", False),  # PyTorch says yes, and takes 2.6 times as long as in float32
        (False, "avx2", False),
    ],
)
def test_bfloat16_instructions_are_those_that_the_cpu_has_and_pytorch_uses(
    onednn: bool, flags: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : {flags}\n")
    monkeypatch.setattr(machine, "_CPU", tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
    assert machine.bfloat16_instructions() is expected
    assert machine.instruction_set().endswith(", bfloat16" if expected else ", no bfloat16")
    assert machine.instruction_set() in machine.device_name("cpu")


def test_bfloat16_without_instructions_is_said_before_the_first_step(
    old_cpu: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(write(tmp_path / "c.yaml", PLAIN), tmp_path / "out", "--steps", "1", "--precision", "bfloat16")
    assert main(given) == 0
    out = capsys.readouterr().out
    line = "--precision bfloat16: this CPU"
    assert "has no instructions for it" in out
    assert "no bfloat16" in (tmp_path / "out" / "run.json").read_text()
    assert out.index(line) < out.index("class counts")
    # A resumed run keeps its precision, and the machine may be another one.
    assert main(arguments(tmp_path / "c.yaml", tmp_path / "out", "--steps", "2", "--resume")) == 0
    assert line in capsys.readouterr().out
    more = ("--steps", "3", "--resume", "--precision", "float32")
    assert main(arguments(tmp_path / "c.yaml", tmp_path / "out", *more)) == 0
    assert line not in capsys.readouterr().out


def test_a_gpu_without_bfloat16_instructions_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    for capability, expected in (((7, 5), 1), ((8, 0), 0), ((9, 0), 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda capability=capability: capability)
        lines = machine.shortcomings("bfloat16", None, torch.device("cuda"))
        assert len(lines) == expected
        assert all("Tesla T4 has no instructions for it: --precision float32" in line for line in lines)


def test_doctor_tells_the_instruction_set_and_that_nothing_need_be_done(
    old_cpu: None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = {finding.what: finding for finding in doctor.diagnose(str(tmp_path))}
    assert "no bfloat16" in found["CPU"].found
    assert "--precision bfloat16" in found["CPU"].remedy
    assert found["CPU"].optional


# Devices, cores and memory.


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("command", [["evaluate", "somewhere"], ["studiogan", "run"]])
def test_cuda_where_there_is_none_is_one_line_with_every_command(command: list[str]) -> None:
    assert machine.choose_device(None) == "cpu"
    with pytest.raises(RequestError, match="--device cuda: found no CUDA device; --device cpu runs on the CPU"):
        machine.choose_device("cuda")


def test_more_ranks_than_gpus_are_refused_in_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for ranks in ("1", "2"):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
        assert machine.choose_device("cuda") == machine.choose_device(None) == "cuda"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(RequestError, match="found 3 ranks for 2 CUDA devices; allowed: up to 2"):
        machine.choose_device(None)
    assert machine.choose_device("cpu") == "cpu"


def test_workers_above_the_cores_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 2)
    assert machine.shortcomings("float32", None, CPU) == machine.shortcomings("float32", 2, CPU) == []
    assert machine.shortcomings("float32", 16, CPU) == [
        "--workers 16: this process may use 2 cores, so at most 2 are started"
    ]


@pytest.fixture
def limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Limited:
    """Gives this process these lines of membership, and files of control groups."""

    def limit(membership: str, files: dict[str, str]) -> None:
        (tmp_path / "cgroup").write_text(membership)
        (tmp_path / "meminfo").write_text("MemTotal: 67108864 kB\nMemFree: 1048576 kB\nMemAvailable: 33554432 kB\n")
        for name, content in files.items():
            path = tmp_path / "groups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        monkeypatch.setattr(machine, "_MEMBERSHIP", tmp_path / "cgroup")
        monkeypatch.setattr(machine, "_MEMORY", tmp_path / "meminfo")
        monkeypatch.setattr(machine, "_CONTROL_GROUPS", tmp_path / "groups")

    return limit


def _memory(folder: str, limit: str, used: int, cache: int) -> dict[str, str]:
    files = {"max": limit, "current": str(used), "stat": f"anon 1\ninactive_file {cache}\n"}
    return {f"{folder}memory.{name}": content for name, content in files.items()}


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("", {}, 32 * GIB),
        ("0::/\n", _memory("", "max", GIB, 0), 32 * GIB),
        ("0::/\n", _memory("", str(8 * GIB), 5 * GIB, 3 * GIB), 6 * GIB),  # page cache can be reclaimed
        ("0::/\n", _memory("", str(8 * GIB), 9 * GIB, 0), 0),
        ("0::/job/step\n", _memory("job/step/", "max", GIB, 0) | _memory("job/", str(4 * GIB), GIB, 0), 3 * GIB),
        # Inside a container the path is the host's, and the mount is the container's own group.
        ("0::/docker/0123\n", _memory("", str(4 * GIB), GIB, 0), 3 * GIB),
        (
            "4:memory:/job\n0::/\n",
            {
                "memory/job/memory.limit_in_bytes": str(4 * GIB),
                "memory/job/memory.usage_in_bytes": str(3 * GIB),
                "memory/job/memory.stat": f"inactive_file 0\ntotal_inactive_file {GIB}\n",
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "memory/memory.usage_in_bytes": str(50 * GIB),
                "memory/memory.stat": "total_inactive_file 0\n",
            },
            2 * GIB,
        ),
    ],
    ids=["no groups", "v2, no limit", "v2", "v2, beyond", "v2, above it", "v2, in a container", "v1"],
)
def test_free_memory_counts_reclaimable_pages_and_a_containers_limit(
    membership: str, files: dict[str, str], expected: int, limited: Limited
) -> None:
    limited(membership, files)
    assert machine.free_memory() == expected


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "10000 100000\n"}, 1),
        ("1:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "200000", "cpu/a/cpu.cfs_period_us": "100000"}, 2),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 16),
    ],
)
def test_cores_are_within_a_containers_quota(
    membership: str, files: dict[str, str], expected: int, limited: Limited, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: set(range(16)))
    limited(membership, files)
    assert machine.cores() == expected


def test_this_machine_has_memory_and_cores() -> None:
    assert machine.free_memory() > 0
    assert machine.cores() > 0


def test_arithmetic_tells_devices_and_tf32_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.arithmetic(CPU) == {"device": "cpu"}
    found = []
    for allowed in (True, False):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
        found.append(machine.arithmetic(torch.device("cuda:0")))
    assert [one["convolutions"] for one in found] == ["tf32", "float32"]
    assert all(one["device"] == "cuda" for one in found)


# Losses of power.


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, list[str]]]:
    """What is brought to the disk, and, of a folder, the names in it then."""
    fsync, seen = os.fsync, []

    def see(handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").resolve()
        seen.append((path, sorted(p.name for p in path.iterdir()) if path.is_dir() else []))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", see)
    return seen


def test_a_new_name_is_on_the_disk_when_a_file_has_been_written(
    flushed: list[tuple[Path, list[str]]], tmp_path: Path
) -> None:
    write_atomically(tmp_path / "run.json", "{}")
    assert [path.name for path, _ in flushed] == [f".run.json.{os.getpid()}.partial", tmp_path.name]
    assert flushed[-1] == (tmp_path, ["run.json"])


def test_a_packed_file_and_a_checkpoint_of_studiogan_are_published_so(
    flushed: list[tuple[Path, list[str]]], tmp_path: Path
) -> None:
    def save(model: str, when: str, step: int, folder: str, states: dict[str, Any]) -> None:
        (Path(folder) / "model=D.pth").write_bytes(b"weights")

    CheckpointHooks(HookedRun()).save_network(save, "D", "current", 1, str(tmp_path), {})
    (folder, names) = flushed[-1]
    assert folder == tmp_path
    assert "model=D.pth" in names
    assert main(["data", "prepare", "Digits_LT", "--data", str(tmp_path / "data"), "--workers", "0"]) == 0
    assert any(
        path == tmp_path / "data" and any(name.endswith("train.hdf5") and name[0] != "." for name in there)
        for path, there in flushed
    )


def test_a_folder_that_a_file_system_does_not_flush_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fsync = os.fsync

    def refuse(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").resolve().is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refuse)
    write_atomically(tmp_path / "run.json", "{}")
    assert (tmp_path / "run.json").read_text() == "{}"


# StudioGAN's own arguments.


@pytest.mark.parametrize("backend", [[], ["--backend", "nccl"], ["--backend=nccl"]])
def test_studiogans_ranks_on_the_cpu_need_gloo(backend: list[str]) -> None:
    with pytest.raises(RequestError, match="on the CPU: --backend gloo"):
        launcher._check_without_cuda(["-t", "-DDP", *backend])
    for fits in (["-t", *backend], ["-DDP", "--backend", "gloo"], ["-DDP", "--backend=gloo"]):
        launcher._check_without_cuda(fits)


def test_studiogans_mixed_precision_on_the_cpu_is_said_to_be_none(capsys: pytest.CaptureFixture[str]) -> None:
    launcher._check_without_cuda(["-t"])
    assert not capsys.readouterr().out
    launcher._check_without_cuda(["-t", "-mpc"])
    assert "on the CPU the run computes in float32" in capsys.readouterr().out
