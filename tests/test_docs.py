"""What the README and docs/ promise, as far as a machine can check it."""

from __future__ import annotations

import inspect
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from studiogan_gsr import class_conditional_affines
from studiogan_gsr.cli import main, parser
from studiogan_gsr.contract import ROLES, Batch, roles_of
from studiogan_gsr.hosts.native.configuration import read_configuration
from studiogan_gsr.hosts.native.training import Speed, Trainer
from studiogan_gsr.hosts.regularization.plugins import find_regularizer
from studiogan_gsr.registry import DATASETS, REGULARIZERS, find_plugins
from studiogan_gsr.settings import regularizer_settings
from support import strangers_package
from support.documents import PAGES, ROOT, snippets, texts
from support.plugins import MakePackage
from support.runs import COUNTS, PLAIN, one_thread

README, OWN_SCRIPT = "README.md", "docs/own-script.md"
SCRIPT = (ROOT / "tests" / "support" / "twenty_lines.py").read_text(encoding="utf-8")
PLACE = "# the README's lines go here"
# How many Python snippets each page has, and the tests that run them.
PYTHON = {
    README: 2,  # the four lines and the README's method, below
    OWN_SCRIPT: 6,  # the same lines, the reader, the loop, its resumption, the share, the long-tailed set, below
    "docs/plugins.md": 5,  # test_strangers_package.py, in both hosts
    "docs/data-sets.md": 1,  # datasets/test_splits.py
    "docs/generated-images.md": 1,  # runs/test_generate.py
}


def run(script: str) -> dict[str, Any]:
    torch.manual_seed(0)
    namespace: dict[str, Any] = {"__name__": "script"}
    exec(script, namespace)
    return namespace


def own_commands() -> Iterator[tuple[str, list[str]]]:
    """The arguments of `studiogan-gsr` in every sh snippet, with the page that shows them."""
    for snippet in snippets("sh"):
        for line in snippet.text.replace("\\\n", " ").splitlines():
            for command in line.split("&&"):
                words = shlex.split(command, comments=True)
                if words[:1] == ["torchrun"]:
                    yield snippet.page, words[words.index("studiogan_gsr") + 1 :]
                elif words[:1] == ["studiogan-gsr"]:
                    yield snippet.page, words[1:]


def test_the_readme_is_short() -> None:
    assert len(PAGES[README].split()) <= 1300


def test_commands_shown_are_understood() -> None:
    seen = Counter(page for page, _ in own_commands())
    assert seen[README] >= 8
    for page, words in own_commands():
        try:
            parser().parse_args(words)
        except SystemExit:
            pytest.fail(f"{page}: studiogan-gsr {shlex.join(words)}")


def test_other_commands_are_known_or_say_why_they_are_not_tested() -> None:
    """`pip` and `pytest` are what .ci/run does; benchmarks' commands have tests of their own."""
    known = {"studiogan-gsr", "torchrun", "pip", "pytest"}
    for snippet in snippets("sh"):
        if snippet.mark.startswith("not tested: "):
            continue
        for line in snippet.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["python"]:
                assert (ROOT / words[1]).is_file() or words[1] == "-m", (snippet.page, line)
            elif words:
                assert words[0] in known, (snippet.page, line)


def test_every_python_snippet_is_run_by_a_test() -> None:
    assert Counter(snippet.page for snippet in snippets("python")) == PYTHON


@pytest.mark.parametrize("page", [README, OWN_SCRIPT])
def test_the_four_lines_regularize_a_script_of_twenty(page: str) -> None:
    (lines,) = [text for text in texts("python", page) if "attach(" in text]
    assert len([line for line in lines.splitlines() if line.strip()]) <= 4
    assert PLACE in SCRIPT
    without, with_gsr = run(SCRIPT), run(SCRIPT.replace(PLACE, lines))

    def largest_norm(namespace: dict[str, Any]) -> float:
        gain = namespace["generator"].gain.weight.detach()
        return float(torch.linalg.svdvals(gain.reshape(4, 4, 4)).max())

    assert largest_norm(with_gsr) < 0.9 * largest_norm(without)
    assert with_gsr["regularizer"].scalars()["penalty"] > 0


LOSS = """
def generator_loss():
    labels = torch.randint(4, (32,))
    return discriminator(torch.cat([generator(torch.randn(32, 8), labels), torch.eye(4)[labels]], 1)).mean()
steps = 3
"""


def test_the_loop_logs_and_its_checkpoint_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    four_lines, loop, resume = (
        next(text for text in texts("python", OWN_SCRIPT) if part in text)
        for part in ("attach(", "torch.save", "torch.load")
    )
    monkeypatch.chdir(tmp_path)
    start = SCRIPT.replace(PLACE, four_lines + LOSS).partition("for _ in range")[0]
    saved = run(start + loop)
    assert "norm_tail" in capsys.readouterr().out
    resumed = run(
        start + "parts = {'generator': generator, 'g_optimizer': g_optimizer, 'gsr': regularizer}\n" + resume
    )
    for part in ("generator", "regularizer"):
        for name, value in resumed[part].named_buffers():
            assert torch.equal(value, saved[part].get_buffer(name)), name
    assert resumed["g_optimizer"].state_dict()["state"]
    before = resumed["regularizer"].scalars()["penalty"]
    exec("g_optimizer.zero_grad(); generator_loss().backward(); g_optimizer.step()", resumed)
    assert resumed["regularizer"].scalars()["penalty"] != before  # still attached


def test_the_share_in_a_script_is_that_of_free_gains_and_biases(capsys: pytest.CaptureFixture[str]) -> None:
    (four_lines,) = [text for text in texts("python", OWN_SCRIPT) if "attach(" in text]
    (lines,) = [text for text in texts("python", OWN_SCRIPT) if "share:" in text]
    start = SCRIPT.replace(PLACE, four_lines + LOSS).partition("for _ in range")[0]
    script = run(start + lines)
    share = float(capsys.readouterr().out.split()[-1])
    tables = [script["generator"].gain.weight, script["generator"].bias.weight]
    gradients = torch.autograd.grad(script["regularizer"].penalty(), tables)
    size = torch.cat([gradient[3] for gradient in gradients]).norm()
    assert share == pytest.approx(float(size / script["adversarial"].norm()), rel=1e-3)


def test_the_reader_reads_a_layer_of_other_names() -> None:
    (lines,) = [text for text in texts("python", OWN_SCRIPT) if "MyBatchNorm" in text]

    class MyBatchNorm(torch.nn.BatchNorm2d):
        def __init__(self) -> None:
            super().__init__(4, affine=False)
            self.scale, self.shift = torch.nn.Embedding(3, 4), torch.nn.Embedding(3, 4)

    generator = torch.nn.Sequential(MyBatchNorm())
    exec(lines, {"MyBatchNorm": MyBatchNorm})
    (affine,) = class_conditional_affines(generator)
    assert torch.equal(affine.gain, generator[0].scale.weight - 1)
    assert torch.equal(affine.bias, generator[0].shift.weight)


def test_any_image_folder_becomes_long_tailed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (lines,) = [text for text in texts("python", OWN_SCRIPT) if "LongTailed" in text]
    for kind in ("cat", "lynx"):
        (tmp_path / "pets" / "train" / kind).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (8, 8)).save(tmp_path / "pets" / "train" / kind / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    assert list(run(lines)["images"].class_counts) == [10, 2]
    assert "10, 2" in capsys.readouterr().out


def test_the_readmes_method_trains_with_gsr(make_package: MakePackage, monkeypatch: pytest.MonkeyPatch) -> None:
    (source,) = [text for text in texts("python", README) if "class " in text]
    (metadata,) = texts("toml", README)
    entries = dict(re.findall(r'^(\w+) = "(.+)"$', metadata, flags=re.MULTILINE))
    site = make_package("my-methods", "studiogan.regularizers", entries, {"my_methods": source})
    monkeypatch.syspath_prepend(site)
    (shown,) = [text for text in texts("yaml", README) if "total_variation" in text]
    configuration = read_configuration({**PLAIN, **yaml.safe_load(shown)})
    trainer = Trainer(configuration, COUNTS, iter(()), torch.device("cpu"), 0, Speed())
    assert trainer.regularization.names == ["gsr", "total_variation"]


def test_configurations_shown_can_be_read() -> None:
    for page in (README, "docs/configuration.md"):
        shown = [yaml.safe_load(text) for text in texts("yaml", page)]
        assert any("MODEL" in sections for sections in shown)
        for sections in shown:
            if "MODEL" in sections:
                read_configuration(sections)


def test_configurations_shown_name_options_that_exist() -> None:
    for snippet in snippets("yaml"):
        for settings in regularizer_settings(yaml.safe_load(snippet.text)):
            if settings.name not in strangers_package.ROLES:
                parameters = inspect.signature(find_regularizer(settings).factory).parameters
                assert set(settings.options) <= set(parameters), snippet.page


def test_the_methods_shown_are_short_one_of_each_role_and_all_in_the_package() -> None:
    """That they work is tested in both hosts: test_strangers_package.py."""
    methods = [block for block in strangers_package.blocks("python") if "class " in block]
    assert all(len(block.splitlines()) < 15 for block in methods)
    namespace = run("\n".join(strangers_package.blocks("python")))
    metadata = "".join(strangers_package.blocks("toml"))
    entries = dict(re.findall(r'^(\w+) = "my_methods:(\w+)"$', metadata, flags=re.MULTILINE))
    assert {name: roles_of(namespace[value]) for name, value in entries.items()} == {
        name: (role,) for name, role in strangers_package.ROLES.items()
    }
    assert sorted(strangers_package.ROLES.values()) == sorted(ROLES)


def test_the_smallest_package_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(strangers_package.install(tmp_path, smallest=True))
    monkeypatch.delitem(sys.modules, "my_methods", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("decay.yaml").write_text(strangers_package.blocks("yaml")[0])
    (words,) = [words for page, words in own_commands() if page == "docs/plugins.md" and words[0] == "train"]
    with one_thread():
        assert main([*words, "--steps", "1", "--workers", "0", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    for line in strangers_package.blocks("text")[0].splitlines():
        assert re.search(strangers_package.pattern(line), said, re.MULTILINE), line


def test_the_phase_shown_is_that_of_the_code() -> None:
    late = run("\n".join(strangers_package.blocks("python")))["LateVariation"](torch.nn.Linear(1, 1), [1])
    images = torch.rand(2, 3, 4, 4)
    for step in (0, 999, 1000, 5000):
        assert (
            bool(late.generator_loss(SimpleNamespace(step=step, images=images))) == late.phase(step) == (step >= 1000)
        )


def test_the_table_of_the_contract_names_every_role_and_field() -> None:
    table = "\n".join(line for line in strangers_package.PAGE.splitlines() if line.startswith("| `"))
    methods = re.findall(r"^\| `(\w+)\(", table, flags=re.MULTILINE)
    assert methods == [*ROLES, "scalars", "state_dict"]
    for field in fields(Batch):
        assert f"`{field.name}`" in table, field.name


def test_every_data_set_is_in_the_table_of_data_sets() -> None:
    page = PAGES["docs/data-sets.md"]
    table = page[: page.index("## Names")]
    for plugin in find_plugins(DATASETS):
        if plugin.package == "studiogan-gsr" and not plugin.name.startswith("iNaturalist"):
            assert f"`{plugin.name}" in table, plugin.name
    assert "`iNaturalist2019`, `2018`, `2017`" in table


def test_every_regularizer_is_on_the_page_of_methods() -> None:
    for plugin in find_plugins(REGULARIZERS):
        if plugin.package == "studiogan-gsr":
            assert f"| [{plugin.name}]({plugin.name}.md): " in PAGES["docs/methods/README.md"], plugin.name


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_links_to_exist(page: str) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", PAGES[page]):
        assert ((ROOT / page).parent / link).exists(), link


def test_the_home_page_leads_to_every_page() -> None:
    for page in PAGES:
        if page.startswith("docs/") and page.count("/") == 1 and page != "docs/index.md":
            assert f"({page.removeprefix('docs/')})" in PAGES["docs/index.md"], page


def test_ci_runs_the_readmes_test_command() -> None:
    (command,) = re.findall(r"<!-- tests -->\n```sh\n(pip install .*)\n```\n<!-- /tests -->", PAGES[README])
    assert command.count("&&") == 1
    assert "pytest" in command
