"""Plug-ins of strangers, from real metadata: found, loaded, checked, and blamed by name."""

from __future__ import annotations

import pickle
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from studiogan_gsr.datasets.by_name import find_dataset, make_dataset
from studiogan_gsr.errors import ConfigurationError, DataError, GSRError, PluginError
from studiogan_gsr.hosts.regularization.plugins import find_regularizer, make_regularizer
from studiogan_gsr.registry import DATASETS, REGULARIZERS, LoadedPlugin, find_plugins, load_plugin
from studiogan_gsr.settings import RegularizerSettings
from support.plugins import MakePackage

Stranger = Callable[[str], None]

RIDGE = """
class Ridge:
    def __init__(self, generator, class_counts, strength=1.0):
        self.generator, self.class_counts, self.strength = generator, class_counts, strength

    def penalty(self):
        return self.strength * sum(p.square().sum() for p in self.generator.parameters())

    def scalars(self):
        return {"penalty": self.penalty().item()}

    def state_dict(self):
        return {}

    def load_state_dict(self, state_dict):
        pass
"""
RIDGE_PLUGIN = "stranger 2.3 [studiogan.regularizers] ridge = stranger_ridge:Ridge"

PHOTOS = """
class Photos:
    def __init__(self, targets, class_counts):
        self.targets, self.class_counts, self.classes = targets, class_counts, ["cat", "dog"]

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return "image", self.targets[index]
"""
PHOTOS_PLUGIN = "stranger 2.3 [studiogan.datasets] Photos_LT = stranger_photos:photos"


@pytest.fixture
def ridge(make_package: MakePackage) -> Stranger:
    """ridge(source) installs a package whose regularizer `ridge` is the module's `Ridge`."""

    def install(source: str) -> None:
        entries, modules = {"ridge": "stranger_ridge:Ridge"}, {"stranger_ridge": source}
        make_package("stranger", REGULARIZERS, entries, modules, version="2.3")

    return install


@pytest.fixture
def photos(make_package: MakePackage) -> Stranger:
    """photos(body) installs a package whose data set `Photos_LT` is photos(root, split, ratio) with that body."""

    def install(body: str) -> None:
        source = f"{PHOTOS}\ndef photos(root, split, ratio=None):\n    {body}\n"
        entries, modules = {"Photos_LT": "stranger_photos:photos"}, {"stranger_photos": source}
        make_package("stranger", DATASETS, entries, modules, version="2.3")

    return install


def find(option: str = "", value: object = None) -> LoadedPlugin:
    return find_regularizer(RegularizerSettings("ridge", {option: value} if option else {}))


def message_of(error: GSRError) -> str:
    """The message, which is one line and survives the pickles that ranks report through."""
    text = str(error)
    assert len(text.splitlines()) == 1
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == text
    return text


def test_our_own_plugins_are_installed() -> None:
    found = {p.name: f"{p.package}:{p.value}" for group in (REGULARIZERS, DATASETS) for p in find_plugins(group)}
    assert found == found | {
        "class_balance": "studiogan-gsr:studiogan_gsr.regularizers.class_balance:ClassBalance",
        "gsr": "studiogan-gsr:studiogan_gsr.regularizers.gsr:GroupSpectralRegularizer",
        "lecam": "studiogan-gsr:studiogan_gsr.regularizers.lecam:LeCam",
        "mode_seeking": "studiogan-gsr:studiogan_gsr.regularizers.mode_seeking:ModeSeeking",
        "noisytwins": "studiogan-gsr:studiogan_gsr.regularizers.noisytwins:noisytwins",
        "CIFAR10_LT": "studiogan-gsr:studiogan_gsr.datasets.cifar:cifar10_lt",
        "CIFAR100_LT": "studiogan-gsr:studiogan_gsr.datasets.cifar:cifar100_lt",
        "Digits_LT": "studiogan-gsr:studiogan_gsr.datasets.digits:digits_lt",
        "Folder_LT": "studiogan-gsr:studiogan_gsr.datasets.folder:folder_lt",
    }


def test_a_strangers_regularizer_is_found_loaded_and_made(ridge: Stranger) -> None:
    ridge(RIDGE)
    assert RIDGE_PLUGIN in map(str, find_plugins(REGULARIZERS))
    loaded = find("strength", 2.0)
    generator = nn.Linear(2, 1, bias=False)
    regularizer = make_regularizer(loaded, generator, nn.Linear(1, 1), [3, 1], {"strength": 2.0})
    assert (regularizer.class_counts, regularizer.strength) == ([3, 1], 2.0)  # type: ignore[attr-defined]
    regularizer.penalty().backward()
    assert generator.weight.grad is not None
    assert generator.weight.grad.equal(4 * generator.weight)


def test_only_the_named_plugin_is_imported(make_package: MakePackage) -> None:
    entries = {"ridge": "stranger_ridge:Ridge", "lasso": "stranger_lasso:Lasso"}
    make_package("stranger", REGULARIZERS, entries, {"stranger_ridge": RIDGE, "stranger_lasso": "raise OSError"})
    assert {"ridge", "lasso", "gsr"} <= {p.name for p in find_plugins(REGULARIZERS)}
    assert "stranger_ridge" not in sys.modules
    load_plugin(REGULARIZERS, "ridge")
    assert "stranger_ridge" in sys.modules
    assert "stranger_lasso" not in sys.modules


@pytest.mark.parametrize(
    ("group", "name", "path", "hint"),
    [
        (REGULARIZERS, "grs", "REGULARIZER", "did you mean gsr?"),
        (REGULARIZERS, "GSR", "REGULARIZER", "did you mean gsr?"),
        (DATASETS, "CIFAR10LT", "DATA.name", "did you mean CIFAR10_LT?"),
    ],
)
def test_a_name_that_nobody_has_is_refused_with_the_nearest(group: str, name: str, path: str, hint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_plugin(group, name)
    text = message_of(caught.value)
    assert text.startswith(f"{path}: found {name!r}; installed are ")
    assert text.endswith(hint)


def test_a_name_far_from_all_is_refused_with_all_and_no_hint() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_plugin(REGULARIZERS, "zzzzzz")
    assert "gsr" in message_of(caught.value)
    assert "did you mean" not in str(caught.value)


def test_two_packages_with_one_name_are_both_shown(make_package: MakePackage) -> None:
    for package, version in (("one", "1.1"), ("two", "2.2")):
        entries, modules = {"ridge": f"{package}_ridge:Ridge"}, {f"{package}_ridge": RIDGE}
        make_package(package, REGULARIZERS, entries, modules, version=version)
    with pytest.raises(PluginError) as caught:
        load_plugin(REGULARIZERS, "ridge")
    text = message_of(caught.value)
    assert "one 1.1 [studiogan.regularizers] ridge = one_ridge:Ridge" in text
    assert "two 2.2 [studiogan.regularizers] ridge = two_ridge:Ridge" in text
    assert "uninstall one" in text


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import a_module_that_is_missing", "ModuleNotFoundError: No module named 'a_module_that_is_missing'"),
        ("raise RuntimeError('built for\\n  another torch')", "RuntimeError: built for another torch"),
        ("def Ridge(:", "SyntaxError"),
        ("", "AttributeError"),
        ("Ridge = 3", "is int, not a factory that can be called"),
        ("def Ridge(generator): ...", "has the signature (generator); expected: (generator, class_counts, "),
        ("def Ridge(*, generator, class_counts): ...", "expected: (generator, class_counts, **options)"),
    ],
    ids=["missing module", "failing import", "syntax", "no such object", "not callable", "one argument", "keywords"],
)
def test_a_regularizer_that_does_not_load_is_blamed_by_package_version_and_entry(
    source: str, cause: str, ridge: Stranger
) -> None:
    ridge(source)
    with pytest.raises(PluginError) as caught:
        find()
    text = message_of(caught.value)
    assert text.startswith(f"{RIDGE_PLUGIN}: ")
    assert cause in text


@pytest.mark.parametrize(
    ("options", "path", "parts"),
    [
        (
            {"strenght": 1},
            "REGULARIZER.strenght",
            ["found 1", "ridge has the keys strength", "did you mean strength?"],
        ),
        ({"zzzzzz": None}, "REGULARIZER.zzzzzz", ["found None", "ridge has the keys strength"]),
    ],
)
def test_an_option_that_a_factory_does_not_take_is_refused_with_its_path(
    options: dict[str, Any], path: str, parts: list[str], ridge: Stranger
) -> None:
    ridge(RIDGE)
    with pytest.raises(ConfigurationError) as caught:
        find_regularizer(RegularizerSettings("ridge", options))
    text = message_of(caught.value)
    assert caught.value.path == path
    assert all(part in text for part in parts)


def test_a_missing_required_option_is_named(ridge: Stranger) -> None:
    ridge("def Ridge(generator, class_counts, *, strength): ...")
    with pytest.raises(ConfigurationError) as caught:
        find()
    text = message_of(caught.value)
    assert "'strength'" in text
    assert "ridge needs this key" in text
    find("strength", 1)


@pytest.mark.parametrize(
    "parameters",
    [
        "generator, class_counts, **options",
        "*anything, **options",
        "generator, *others, strength=1",
        "*anything, strength=1",
        "generator, class_counts, /, strength=1",
    ],
)
def test_every_signature_that_takes_the_call_is_accepted(parameters: str, ridge: Stranger) -> None:
    ridge(f"def Ridge({parameters}): ...")
    assert find("strength", 1).plugin.name == "ridge"


CHECKED = """
from studiogan_gsr.errors import OptionError

def Ridge(generator, class_counts, strength=1.0): ...

def check_options(options):
    {body}

Ridge.check_options = check_options
"""


def test_an_option_that_check_options_refuses_is_told_by_its_path(ridge: Stranger) -> None:
    ridge(CHECKED.format(body="raise OptionError('strength', options['strength'], 'a number > 0')"))
    with pytest.raises(ConfigurationError) as caught:
        find("strength", -1)
    assert message_of(caught.value) == "REGULARIZER.strength: found -1; allowed: a number > 0"


def test_a_check_options_that_itself_fails_is_the_plugins_fault(ridge: Stranger) -> None:
    ridge(CHECKED.format(body="return options['missing']"))
    with pytest.raises(PluginError) as caught:
        find()
    assert message_of(caught.value) == f"{RIDGE_PLUGIN}: check_options failed: KeyError: 'missing'"


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ("raise ValueError('one\\nand two')", "refused: ValueError: one and two"),
        ("return class_counts['head']", "refused: TypeError: list indices must be integers"),
        (
            "return object()",
            "returned object, no regularizer: penalty() or generator_loss() or discriminator_loss() or draw(), "
            "scalars(), state_dict(), load_state_dict() missing",
        ),
        ("return None", "returned NoneType, no regularizer"),
        (
            "import torch; return torch.nn.Linear(1, 1)",
            "returned Linear, no regularizer: penalty() or generator_loss() or discriminator_loss() or draw(), "
            "scalars() missing",
        ),
    ],
)
def test_a_factory_that_fails_or_gives_no_regularizer_is_blamed(body: str, cause: str, ridge: Stranger) -> None:
    ridge(f"def Ridge(generator, class_counts):\n    {body}\n")
    loaded = find()
    with pytest.raises(PluginError) as caught:
        make_regularizer(loaded, nn.Linear(1, 1), nn.Linear(1, 1), [1, 1], {})
    assert f"{RIDGE_PLUGIN}: {cause}" in message_of(caught.value)


def test_a_strangers_data_set_is_found_and_made_from_its_name(photos: Stranger) -> None:
    photos("assert (root, split, ratio) == ('data', 'train', 10); return Photos([0, 0, 1], [2, 1])")
    found = find_dataset("Photos_LT_rho10")
    assert found is not None
    loaded, options = found
    assert str(loaded.plugin) == PHOTOS_PLUGIN
    assert options == {"ratio": 10}
    dataset = make_dataset(loaded, "data", "train", options)
    assert (dataset.class_counts, dataset[2]) == ([2, 1], ("image", 1))


def test_the_longest_name_that_fits_wins(make_package: MakePackage) -> None:
    modules = {"stranger_sets": "def short(root, split, **o): ...\ndef long(root, split, **o): ..."}
    entries = {"Photos": "stranger_sets:short", "Photos_LT": "stranger_sets:long"}
    make_package("stranger", DATASETS, entries, modules)
    found = [find_dataset(name) for name in ("Photos_rho2", "Photos_LT_rho2")]
    assert [f[0].plugin.name for f in found if f] == ["Photos", "Photos_LT"]


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ("return object()", "returned object without targets, class_counts, classes, __len__, __getitem__"),
        ("return [1, 2]", "returned list without targets, class_counts, classes"),
        (
            "return Photos([0, 0], [2, 1])",
            "returned 3 images, class_counts [2, 1] and targets that count to [2, 0]; they must agree",
        ),
        (
            "return Photos([0, 0, 1], [2, 2])",
            "returned 3 images, class_counts [2, 2] and targets that count to [2, 1]; they must agree",
        ),
        (
            "return Photos([0, 0, 1], [1, 2])",
            "returned 3 images, class_counts [1, 2] and targets that count to [2, 1]",
        ),
        (
            "return Photos([1, 1, 2], [2, 1])",
            "returned 3 images, class_counts [2, 1] and targets that count to [0, 2, 1]; they must agree; the labels "
            "begin at 1: subtract 1 from each",
        ),
        (
            "return Photos([0, 0, 1.5], [2, 1])",
            "returned Photos whose labels cannot be counted: OptionError: targets: ",
        ),
        ("return Photos(None, [2, 1])", "returned Photos whose labels cannot be counted"),
        ("raise OSError('no\\ndisk')", "failed: OSError: no disk"),
    ],
)
def test_a_data_set_that_breaks_its_contract_is_blamed(body: str, cause: str, photos: Stranger) -> None:
    photos(body)
    loaded = load_plugin(DATASETS, "Photos_LT")
    with pytest.raises(PluginError) as caught:
        make_dataset(loaded, "data", "train", {})
    assert message_of(caught.value).startswith(f"{PHOTOS_PLUGIN}: {cause}")


def test_an_option_that_a_data_sets_factory_refuses_is_an_error_of_its_name(photos: Stranger) -> None:
    photos("from studiogan_gsr.errors import OptionError; raise OptionError('ratio', ratio, 'at most 5')")
    loaded = load_plugin(DATASETS, "Photos_LT")
    with pytest.raises(ConfigurationError) as caught:
        make_dataset(loaded, "data", "train", {"ratio": 10})
    text = message_of(caught.value)
    assert caught.value.path == "DATA.name"
    assert "ratio: found 10; allowed: at most 5" in text
    assert PHOTOS_PLUGIN in text


def test_a_data_sets_own_account_of_missing_data_is_kept(photos: Stranger) -> None:
    photos("from studiogan_gsr.errors import DataError; raise DataError('put photos.zip into data')")
    loaded = load_plugin(DATASETS, "Photos_LT")
    with pytest.raises(DataError) as caught:
        make_dataset(loaded, "data", "train", {})
    assert message_of(caught.value) == "put photos.zip into data"


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100", "Tiny_ImageNet", "ImageNet", "CUB200", "FFHQ", "My_Folder"])
def test_the_hosts_own_names_are_left_to_it(name: str) -> None:
    assert find_dataset(name) is None


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("CIFAR10_rho100", "did you mean CIFAR10_LT?"),
        ("CIFAR10-LT_rho100", "did you mean CIFAR10_LT?"),
        ("cifar10_lt_rho100", "did you mean CIFAR10_LT?"),
        ("Folder_rho10", "did you mean Folder_LT?"),
        ("CIFAR10-LT", "did you mean CIFAR10_LT?"),
        ("CIFAR10_LTrho100", "did you mean CIFAR10_LT?"),
        (
            "Birds_LT_rho10",
            "installed data sets are AnimalFaces_LT, CIFAR100_LT, CIFAR10_LT, Digits_LT, Flowers102_LT",
        ),
        ("my_rho5", "Folder_LT, or any name without _rho"),
        ("CIFAR_LT", "did you mean CIFAR10_LT?"),
        ("CIFAR10_LT", "'ratio'"),
        ("CIFAR10_LT_100", "CIFAR10_LT"),
        ("CIFAR10_LT_seed1_rho100", "; write CIFAR10_LT_rho100_seed1"),
        ("CIFAR10_LT_step_rho100_step", "; write CIFAR10_LT_rho100_step"),
    ],
)
def test_a_name_that_looks_like_ours_and_is_not_is_refused_with_the_form(name: str, part: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        find_dataset(name)
    text = message_of(caught.value)
    assert text.startswith(f"DATA.name: found {name!r}; ")
    assert part in text
    assert "<data set>_rho<ratio>[_step][_reversed][_released][_seed<k>]" in text


@pytest.mark.parametrize(
    ("name", "part", "canonical"),
    [
        ("CIFAR10_LT_rho100_released", "CIFAR10_LT has no _released", "CIFAR10_LT_rho100"),
        ("LSUN_LT_rho100_seed1", "LSUN_LT has no _seed", "LSUN_LT_rho100"),
        ("LSUN_LT_rho100_reversed_released_seed0", "LSUN_LT has no _seed", "LSUN_LT_rho100_reversed_released"),
        ("iNaturalist2019_rho100", "iNaturalist2019 has no ratio (_rho)", "iNaturalist2019"),
        ("ImageNet_LT_rho10_step_seed2", "ImageNet_LT has no ratio (_rho), _step, _seed", "ImageNet_LT"),
        ("Places_LT_reversed", "Places_LT has no _reversed", "Places_LT"),
        ("LSUN_LT_released", "'ratio'", "LSUN_LT_rho100_released"),
        ("TinyImageNet_LT", "'ratio'", "TinyImageNet_LT_rho100"),
    ],
)
def test_a_part_that_means_nothing_for_a_set_is_refused_with_the_name_to_write(
    name: str, part: str, canonical: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        find_dataset(name)
    text = message_of(caught.value)
    assert text.startswith(f"DATA.name: found {name!r}; ")
    assert part in text
    assert re.search(rf"; write(?: e\.g\.)? {re.escape(canonical)}(;|$)", text)
    assert find_dataset(canonical) is not None


def test_a_strangers_short_name_does_not_capture_the_hosts_longer_one(make_package: MakePackage) -> None:
    make_package("short", DATASETS, {"Tiny": "tiny:make"}, {"tiny": "def make(root, split, ratio): pass"})
    assert find_dataset("Tiny_ImageNet") is None
    found = find_dataset("Tiny_rho10")
    assert found is not None
    assert found[1] == {"ratio": 10}


def test_a_data_set_factory_of_another_shape_is_the_plugins_fault(make_package: MakePackage) -> None:
    make_package("odd", DATASETS, {"Odd": "odd_sets:make"}, {"odd_sets": "def make(root): pass"})
    with pytest.raises(PluginError, match=r"odd 1.0 .* has the signature \(root\); expected: \(root, split"):
        find_dataset("Odd_rho10")


def test_a_plugin_that_exits_on_import_does_not_take_the_run_with_it(ridge: Stranger) -> None:
    ridge("raise SystemExit(3)")
    with pytest.raises(PluginError, match=r"import failed: SystemExit: 3"):
        load_plugin(REGULARIZERS, "ridge")


def test_an_option_cannot_replace_what_the_host_passes(ridge: Stranger) -> None:
    ridge(RIDGE.replace("strength=1.0", "strength=1.0, **rest"))
    with pytest.raises(ConfigurationError, match=r"REGULARIZER.generator: found 1; ridge has the keys strength"):
        find("generator", 1)
