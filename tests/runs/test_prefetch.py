"""Downloads before a run: small archives and weights from a local server, whole or not at all."""

from __future__ import annotations

import hashlib
import shlex
import shutil
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.datasets import CIFAR10

from studiogan_gsr.cli import main
from studiogan_gsr.evaluation import backbones, perceptual
from studiogan_gsr.evaluation.perceptual import weights_path
from studiogan_gsr.files import sha256
from studiogan_gsr.hosts.studiogan import fid_weights
from support.cifar import write_cifar
from support.runs import write

CONFIGURATION = "CIFAR10_LT/SNGAN-gSR"


class Handler(SimpleHTTPRequestHandler):
    """Serves files; of those in `broken`, the first half alone.  `served` counts the requests."""

    broken: set[str] = set()  # noqa: RUF012
    served: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        name = self.path.strip("/")
        self.served.append(name)
        if name not in self.broken:
            return super().do_GET()
        content = (Path(self.directory) / name).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        return None

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Handler]]:
    """Serve a small CIFAR archive and weights; torchvision, the backbone inception and no LPIPS get them there."""
    files = tmp_path / "server"
    files.mkdir()
    write_cifar(files, CIFAR10, 100, monkeypatch)
    with tarfile.open(files / CIFAR10.filename, "w:gz") as archive:
        archive.add(files / CIFAR10.base_folder, CIFAR10.base_folder)
    torch.save({}, files / "weights.pth")
    monkeypatch.setattr(Handler, "broken", set())
    monkeypatch.setattr(Handler, "served", [])
    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(files)))
    threading.Thread(target=http.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{http.server_port}"
    monkeypatch.setattr(CIFAR10, "url", f"{address}/{CIFAR10.filename}")
    digest = hashlib.md5((files / CIFAR10.filename).read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, "tgz_md5", digest)
    monkeypatch.setattr(backbones, "INCEPTION_URL", f"{address}/weights.pth")
    monkeypatch.setattr(backbones, "INCEPTION_SHA256", sha256(files / "weights.pth")[:8])
    monkeypatch.setenv("STUDIOGAN_GSR_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(perceptual, "find_spec", lambda name: None)
    # Only the network's shape is not that of the weights above.
    extractor = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3").FeatureExtractorInceptionV3
    monkeypatch.setattr(extractor, "load_state_dict", lambda self, state: None)
    yield Handler
    http.shutdown()
    http.server_close()


def lines_of(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Return what was printed, by the part of the line before the first colon."""
    return dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines() if ": " in line)


def test_everything_is_downloaded_once_and_named_with_its_place(
    server: type[Handler], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "my data"
    argv = ["prefetch", write_configuration(tmp_path), "--data", str(data)]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert f"data set CIFAR10_LT_rho100: downloaded, {data} (1" in out
    assert "training and 10 reference images" in out
    assert f"backbone inception: downloaded, {tmp_path}/weights/weights.pth (0.0 MB)" in out
    assert "LPIPS: not needed, without the package lpips" in out
    assert f"  {tmp_path}/weights; export STUDIOGAN_GSR_WEIGHTS=DIR, if its copy DIR has another place" in out
    assert f"  {data}, which --data names" in out
    assert [*dict.fromkeys(server.served)] == [CIFAR10.filename, "weights.pth"]
    server.served.clear()
    server.broken |= {CIFAR10.filename, "weights.pth"}
    assert main(argv) == 0
    found = lines_of(capsys)
    assert found["data set CIFAR10_LT_rho100"].startswith("present, ")
    assert found["backbone inception"].startswith("present, ")
    assert server.served == []


def test_the_file_of_studiogans_own_fid_is_downloaded_on_demand_to_where_studiogan_looks(
    server: type[Handler], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(fid_weights, "URL", f"{backbones.INCEPTION_URL.rpartition('/')[0]}/pt_weights.pth")
    monkeypatch.setattr(fid_weights, "SHA256", backbones.INCEPTION_SHA256)
    path = tmp_path / "torch" / "hub" / "checkpoints" / "pt_weights.pth"
    argv = ["prefetch", write_configuration(tmp_path), "--data", str(tmp_path / "data")]
    assert main(argv) == 0
    assert f"-metrics need another file, {path}: add --studiogan;" in capsys.readouterr().out
    assert not path.exists()
    argv += ["--backbone", "inception", "--studiogan"]
    assert main(argv) == 1  # the server does not have it yet
    out = capsys.readouterr().out
    assert f"StudioGAN's FID weights: missing, {path}: cannot be downloaded from {fid_weights.URL} (" in out
    assert "put the file there, or train with -metrics none" in out
    assert out.splitlines()[-1].endswith(f"{shlex.join(['studiogan-gsr', *argv])}`")
    shutil.copy(tmp_path / "server" / "weights.pth", tmp_path / "server" / "pt_weights.pth")
    for state in ("downloaded", "present"):
        assert main(argv) == 0
        out = capsys.readouterr().out
        assert f"StudioGAN's FID weights: {state}, {path} (0.0 MB)" in out
        assert f"  {path}; export TORCH_HOME=DIR, if the copy is DIR/hub/checkpoints/pt_weights.pth" in out
    assert server.served.count("pt_weights.pth") == 2


def write_configuration(folder: Path) -> str:
    """CIFAR-10-LT of 500 images in the head, at ratio 100, as the archive of the server has them."""
    return str(write(folder / "c.yaml", {"DATA": {"name": "CIFAR10_LT_rho100"}}))


@pytest.mark.parametrize("broken", [CIFAR10.filename, "weights.pth"])
def test_a_download_that_breaks_off_is_one_line_and_leaves_nothing(
    broken: str, server: type[Handler], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.broken.add(broken)
    data = tmp_path / "data"
    argv = ["prefetch", write_configuration(tmp_path), "--data", str(data)]
    assert main(argv) == 1
    found = lines_of(capsys)
    what, folder = (
        ("data set CIFAR10_LT_rho100", data) if "tar" in broken else ("backbone inception", data.parent / "weights")
    )
    assert found[what].startswith("missing, ")
    assert "cannot be downloaded" in found[what]
    assert found["1 of 3 missing"] == what
    assert [path for path in folder.iterdir() if not path.name.endswith(".lock")] == []
    server.broken.clear()
    assert main(argv) == 0
    assert lines_of(capsys)[what].startswith("downloaded, ")


def test_studiogans_own_cifar_is_downloaded_whole_too(
    server: type[Handler], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, path = tmp_path / "data", write(tmp_path / "c.yaml", {"DATA": {"name": "CIFAR10"}})
    server.broken.add(CIFAR10.filename)
    assert main(["prefetch", str(path), "--data", str(data)]) == 1
    assert "CIFAR10 is not in" in lines_of(capsys)["data set CIFAR10"]
    assert [path.name for path in data.iterdir()] == [".CIFAR10.lock"]
    server.broken.clear()
    assert main(["prefetch", str(path), "--data", str(data)]) == 0


@pytest.mark.parametrize(
    ("configuration", "missing"),
    [
        ("LSUN_LT/SNGAN-DiffAug-LeCam", "get <scene>_train_lmdb.zip from http://dl.yf.io/lsun/scenes/"),
        ("iNaturalist2019/BigGAN-DiffAug-LeCam", "get train_val2019.tar.gz (74 GB)"),
    ],
)
def test_what_cannot_be_downloaded_is_named_with_its_source(
    configuration: str, missing: str, server: type[Handler], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prefetch", configuration, "--data", str(tmp_path), "--backbone", "effnetlite0"]) == 1
    out = capsys.readouterr().out
    assert missing in out
    assert "backbone effnetlite0: present, it loads; from the package studiogan-gsr" in out
    assert server.served == []


@pytest.mark.parametrize(
    ("configuration", "backbone", "message"),
    [
        ("nowhere.yaml", "inception", "neither a file nor a shipped configuration"),
        ("CIFAR10_LT/SNGAN", "inceptoin", "did you mean inception?"),
    ],
)
def test_a_wrong_request_downloads_nothing(
    configuration: str,
    backbone: str,
    message: str,
    server: type[Handler],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["prefetch", configuration, "--data", str(tmp_path), "--backbone", backbone]) == 2
    assert message in capsys.readouterr().err
    assert server.served == []


def test_lpips_names_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    from torchvision.models import AlexNet_Weights

    assert weights_path() == tmp_path / "hub" / "checkpoints" / AlexNet_Weights.DEFAULT.url.rpartition("/")[2]
