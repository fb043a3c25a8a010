"""What StudioGAN fails at while it trains, refused before: rule by rule, without running it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from studiogan_gsr.errors import ConfigurationError
from studiogan_gsr.hosts.keys import KEYS, NEEDS
from studiogan_gsr.hosts.studiogan.checkout import Checkout
from studiogan_gsr.hosts.studiogan.rules import RULES, check_size, check_values, check_whole

Sections = dict[str, dict[str, Any]]
RUN = {
    "train": True,
    "distributed_data_parallel": False,
    "standing_statistics": False,
    "standing_max_batch": -1,
    "standing_step": -1,
    "truncation_factor": -1,
    "langevin_sampling": False,
    "langevin_noise_std": -1,
    "langevin_rate": -1,
    "GAN_train": False,
    "GAN_test": False,
    "freezeD": -1,
    "print_freq": 100,
    "save_freq": 2000,
    "num_workers": 8,
}


def read(sections: Sections, world_size: int = 1, **run: Any) -> None:
    """As the hooks do, with StudioGAN's defaults."""
    check_values(sections)
    values = {
        name: {key: "N/A" if found.default is None else found.default for key, found in keys.items()}
        for name, keys in KEYS.items()
    }
    made = {name: SimpleNamespace(**keys, **{}) for name, keys in values.items()}
    for name, keys in sections.items():
        vars(made[name]).update(keys)
    made["OPTIMIZATION"].world_size = world_size
    made["RUN"] = SimpleNamespace(**{**RUN, **run})
    check_whole(SimpleNamespace(super_cfgs=made, MISC=SimpleNamespace(cas_setting={"CIFAR10": {}}), **made))


STYLEGAN: Sections = {
    "MODEL": {
        "backbone": "stylegan2",
        "g_cond_mtd": "cAdaIN",
        "d_cond_mtd": "SPD",
        "g_act_fn": "Auto",
        "d_act_fn": "Auto",
        "g_conv_dim": "N/A",
        "d_conv_dim": "N/A",
        "w_dim": 16,
        "apply_g_ema": True,
    },
    "STYLEGAN": {
        "mapping_network": 2,
        "d_architecture": "orig",
        "style_mixing_p": 0,
        "g_reg_interval": 1,
        "d_reg_interval": 16,
        "g_ema_kimg": 20,
        "d_epilogue_mbstd_group_size": 4,
    },
}
ADA = {"apply_ada": True, "ada_aug_type": "bgc", "ada_initial_augment_p": 0, "ada_target": 0.6} | {
    "ada_kimg": 500,
    "ada_interval": 4,
}
APA = {"apply_apa": True, "apa_initial_augment_p": 0, "apa_target": 0.6, "apa_kimg": 500, "apa_interval": 4}
DEEP = {"backbone": "big_resnet_deep_legacy", "g_depth": 2, "d_depth": 2}
INFO = {"info_type": "discrete", "g_info_injection": "concat"}
TOPK = {"apply_topk": True, "topk_gamma": 0.9, "topk_nu": 0.5}


def styled(**changes: dict[str, Any]) -> Sections:
    names = {**STYLEGAN, **changes}
    return {name: {**STYLEGAN.get(name, {}), **changes.get(name, {})} for name in names}


REFUSED: list[tuple[Sections, dict[str, Any], str]] = [
    ({"DATA": {"img_size": 16}}, {}, "DATA.img_size"),
    ({"DATA": {"img_size": 64}, "MODEL": {"backbone": "deep_conv"}}, {}, "DATA.img_size"),
    ({"MODEL": DEEP}, {}, "MODEL.g_cond_mtd"),
    (
        {"DATA": {"img_size": 64}, "MODEL": DEEP | {"g_depth": 1, "g_cond_mtd": "cBN", "g_shared_dim": 8}},
        {},
        "MODEL.g_depth",
    ),
    (styled(MODEL={"d_cond_mtd": "PD"}), {}, "MODEL.d_cond_mtd"),
    (styled(STYLEGAN={"cond_type": ["PD"]}), {}, "STYLEGAN.cond_type"),
    (styled(MODEL={"apply_g_ema": False}), {}, "MODEL.apply_g_ema"),
    (styled(STYLEGAN={"d_epilogue_mbstd_group_size": 3}), {}, "STYLEGAN.d_epilogue_mbstd_group_size"),
    (styled(LOSS=TOPK), {}, "LOSS.apply_topk"),
    ({"MODEL": INFO, "LOSS": {"radius": 0.1}}, {}, "LOSS.radius"),
    ({"MODEL": INFO, "OPTIMIZATION": {"batch_size": 1}}, {}, "OPTIMIZATION.batch_size"),
    ({"MODEL": {"d_cond_mtd": "MD"}, "DATA": {"num_classes": 1}}, {}, "DATA.num_classes"),
    ({"LOSS": TOPK | {"topk_nu": 0.01}}, {}, "LOSS.topk_nu"),
    ({"STYLEGAN": {"apply_pl_reg": True, "pl_weight": 2, "g_reg_interval": 4}}, {}, "STYLEGAN.apply_pl_reg"),
    ({"AUG": ADA | {"ada_target": "N/A"}}, {}, "AUG.ada_target"),
    ({"AUG": APA | {"apa_target": "N/A"}}, {}, "AUG.apa_target"),
    (styled(AUG=ADA | {"ada_aug_type": "bgcf"}, DATA={"img_size": 16}), {}, "AUG.ada_aug_type"),
    ({"DATA": {"name": "Own"}, "MODEL": {"d_cond_mtd": "PD"}, "OPTIMIZATION": {"batch_size": 12}}, {},
     "OPTIMIZATION.batch_size"),
    ({}, {"print_freq": 0}, "--print_freq"),
    ({}, {"save_freq": 0}, "--save_freq"),
    ({}, {"num_workers": 0}, "--num_workers"),
    ({}, {"standing_statistics": True, "standing_step": 2}, "--standing_max_batch"),
    ({}, {"truncation_factor": 0.0}, "--truncation_factor"),
    (styled(), {"truncation_factor": 1.5}, "--truncation_factor"),
    ({}, {"langevin_sampling": True, "langevin_rate": 0.1}, "--langevin_noise_std"),
    (
        {"MODEL": {"d_cond_mtd": "MH"}, "LOSS": {"mh_lambda": 0.05}},
        {"langevin_sampling": True, "langevin_rate": 0.1, "langevin_noise_std": 0.1},
        "--langevin_sampling",
    ),
    ({"AUG": ADA}, {"freezeD": 1}, "--freezeD"),
    ({"LOSS": TOPK}, {"freezeD": 1}, "--freezeD"),
    (
        {"LOSS": {"apply_lo": True, **dict.fromkeys(("lo_alpha", "lo_beta", "lo_rate", "lo_lambda"), 0.5)}
         | {"lo_steps4train": 2, "lo_steps4eval": 2}},
        {"standing_statistics": True, "standing_max_batch": 8, "standing_step": 2},
        "LOSS.apply_lo",
    ),
    ({"DATA": {"name": "CIFAR100", "num_classes": 100}}, {"GAN_train": True}, "DATA.name"),
    ({"MODEL": {"g_act_fn": "Auto"}}, {}, "MODEL.g_act_fn, MODEL.d_act_fn"),
    ({"LOSS": {"cond_lambda": None}}, {}, "LOSS.cond_lambda"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("sections", "run", "path"), REFUSED, ids=[f"{i}-{case[2]}" for i, case in enumerate(REFUSED)]
)
def test_what_studiogan_fails_at_later_is_refused_by_name(sections: Sections, run: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(sections, **run)
    assert caught.value.path == path
    assert len(str(caught.value).splitlines()) == 1


def test_every_rule_is_tried() -> None:
    tried = [path for *_, path in REFUSED]
    assert {rule.path for rule in RULES} <= set(tried)


@pytest.mark.parametrize(
    ("sections", "run"),
    [
        ({}, {}),
        (STYLEGAN, {"truncation_factor": 0.5}),
        (styled(AUG=ADA), {}),
        ({"AUG": APA | {"apa_target": -1}}, {}),
        ({"LOSS": TOPK | {"topk_gamma": 1.0, "topk_nu": 0.001}}, {}),
        ({"LOSS": {"apply_lecam": True}}, {"train": False}),  # what only training needs
        ({"LOSS": TOPK | {"topk_nu": 0.001}}, {"train": False}),
        ({"MODEL": {"apply_attn": True, "attn_d_loc": [1]}}, {}),
        ({"MODEL": DEEP | {"g_cond_mtd": "cBN", "g_shared_dim": 8}}, {}),
        ({"MODEL": {"d_cond_mtd": "PD"}, "OPTIMIZATION": {"batch_size": 81}}, {}),
        ({}, {"GAN_train": True}),
    ],
    ids=str,
)
def test_what_works_is_left_alone(sections: Sections, run: dict[str, Any]) -> None:
    read(sections, **run)


def test_needs_and_conditions_are_keys() -> None:
    for when, keys in NEEDS:
        for path in (*when, *keys.split()):
            section, name = path.split(".")
            assert name in KEYS[section]
        for path, values in when.items():
            section, name = path.split(".")
            assert values == ("any value",) or all(KEYS[section][name].kind.accepts(value) for value in values)


def test_a_step_of_more_images_than_there_are_is_refused() -> None:
    optimization = SimpleNamespace(batch_size=8, acml_steps=2, d_updates_per_step=5, basket_size=80)
    check_size(160, optimization, 2)
    with pytest.raises(
        ConfigurationError, match="found 8 x 2 x 5; a step takes 80 images per process, and there are 79"
    ):
        check_size(159, optimization, 2)


def test_a_batch_that_studiogan_has_divided_by_the_ranks_is_told_as_in_the_file() -> None:
    optimization = SimpleNamespace(batch_size=4, acml_steps=2, d_updates_per_step=5, basket_size=40)
    with pytest.raises(ConfigurationError, match="found 8 x 2 x 5; a step takes 40 images per process"):
        check_size(79, optimization, 2, divided=True)


@pytest.mark.host
@pytest.mark.parametrize("world_size", [1, 4])
def test_studiogans_own_configurations_pass_but_for_two_with_a_number_that_is_text(
    world_size: int, checkout: Checkout
) -> None:
    refused = {}
    paths = sorted(checkout.source.glob("configs/**/*.yaml"))
    for path in paths:
        try:
            read(yaml.safe_load(path.read_text()), world_size, distributed_data_parallel=world_size > 1)
        except ConfigurationError as error:
            refused[path.stem] = str(error)
    assert len(paths) == 196
    assert [*refused] == ["StyleGAN2-256Res-DiffAug-LeCam", "StyleGAN2-256Res-LeCam"]
    assert all("LOSS.lecam_lambda: found '3e-7'" in message for message in refused.values())
