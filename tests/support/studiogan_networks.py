"""Call StudioGAN's own functions on cases, in a separate process: studiogan_networks.py SOURCE CASES RESULTS.

CASES and RESULTS are files of torch.save: a list of dicts (parity.py makes them) and a list of dicts of tensors.
StudioGAN's modules have names such as `config` and `utils`, which must not enter the process of the tests.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from studiogan_gsr.hosts.studiogan.cpu import redirect_devices_to_cpu

ADVERSARIAL = ("vanilla", "logistic", "least_square", "hinge", "wasserstein")
HEADS = ("adv_output", "embed", "proxy", "cls_output")
Results = dict[str, Any]

# The section RUN as main.py fills it for a plain run.
_RUN = {
    "distributed_data_parallel": False, "mixed_precision": False, "freezeD": -1, "train": True,
    "batch_statistics": False, "standing_statistics": False, "synchronized_bn": False, "empty_cache": False,
    "langevin_sampling": False, "truncation_factor": -1, "truncation_cutoff": None, "project": None,
    "entity": None, "save_dir": tempfile.gettempdir(), "ckpt_dir": None,
}  # fmt: skip
# Arguments of WORKER that these steps do not use.
_NOT_HERE = (
    "Gen_mapping Gen_synthesis Gen_ema_mapping Gen_ema_synthesis eval_model eval_dataloader mu sigma real_feats "
    "best_fid best_ckpt_path lecam_emas num_eval loss_list_dict metric_dict_during_train"
)


class _DefaultForFloat32(TorchFunctionMode):
    """Replaces torch.float32 in arguments with the default dtype, so that StudioGAN can compute all in float64."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def swap(value: Any) -> Any:
            return torch.get_default_dtype() if value is torch.float32 else value

        return func(*map(swap, args), **{k: swap(v) for k, v in (kwargs or {}).items()})


@contextlib.contextmanager
def computing_in(dtype: torch.dtype) -> Iterator[None]:
    """Make `dtype` the default, and use it also where a program asks for float32 by name."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with _DefaultForFloat32():
            yield
    finally:
        torch.set_default_dtype(before)


def states(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def weighted(heads: dict[str, Tensor], weights: dict[str, Tensor]) -> Tensor:
    """Return the weighted sum of all entries of all heads, a scalar."""
    return sum((head * weights[name].to(head.dtype)).sum() for name, head in heads.items())  # type: ignore[return-value]


def gradients(total: Tensor, module: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Return the gradients of `total` by all parameters and `inputs`; zeros where it does not depend on one."""
    names, parameters = zip(*module.named_parameters(), strict=True)
    found = torch.autograd.grad(total, [*parameters, inputs], allow_unused=True, materialize_grads=True)
    return dict(zip([*names, "inputs"], found, strict=True))


# ------------------------------------------------------------------ StudioGAN's own things


def _configurations(sections: dict[str, Any]) -> Any:
    import config

    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(sections, file)
        file.flush()
        made = config.Configurations(file.name)
    made.update_cfgs(_RUN, super="RUN")
    return made


def _networks(cfgs: Any, seed: int) -> Any:
    import models.model as model

    torch.manual_seed(seed)
    made = model.load_generator_discriminator(
        DATA=cfgs.DATA,
        OPTIMIZATION=cfgs.OPTIMIZATION,
        MODEL=cfgs.MODEL,
        STYLEGAN=cfgs.STYLEGAN,
        MODULES=cfgs.MODULES,
        RUN=cfgs.RUN,
        device=0,
        logger=SimpleNamespace(info=lambda text: None),
    )
    return SimpleNamespace(generator=made[0], discriminator=made[3], averaged=made[4], ema=made[7])


def _conditional_loss(cfgs: Any) -> Callable[..., Tensor] | None:
    """Return the conditional loss as WORKER makes it; None without one."""
    import utils.losses as losses

    common = {"num_classes": cfgs.DATA.num_classes, "temperature": cfgs.LOSS.temperature, "DDP": False}
    how = cfgs.MODEL.d_cond_mtd
    if how == "AC":
        return losses.CrossEntropyLoss()
    if how == "2C":
        return losses.ConditionalContrastiveLoss(**common, master_rank="cuda")
    if how == "D2DCE":
        return losses.Data2DataCrossEntropyLoss(**common, m_p=cfgs.LOSS.m_p, master_rank="cuda")
    return None


def defaults(case: dict[str, Any]) -> Results:
    import config

    base = config.Configurations.__new__(config.Configurations)
    base.load_base_cfgs()
    return {name: vars(section) for name, section in base.super_cfgs.items() if name != "RUN"}


def network(case: dict[str, Any]) -> Results:
    cfgs = _configurations(case["sections"])
    made = _networks(cfgs, case["seed"])
    G, D = made.generator, made.discriminator
    results: Results = {"initial": {"generator": states(G), "discriminator": states(D)}}
    torch.manual_seed(case["seed"] + 1)
    with torch.no_grad():  # attention, biases and gains have no effect at their initial values
        for parameter in [*G.parameters(), *D.parameters()]:
            parameter.add_(torch.randn_like(parameter) * 0.1)
    results["moved"] = {"generator": states(G), "discriminator": states(D)}
    for dtype in (torch.float32, torch.float64):
        G.load_state_dict(results["moved"]["generator"])
        D.load_state_dict(results["moved"]["discriminator"])
        with computing_in(dtype):
            results[str(dtype)] = _forward_and_backward(cfgs, G.to(dtype), D.to(dtype), case, dtype)
    return results


def _forward_and_backward(cfgs: Any, G: Any, D: Any, case: dict[str, Any], dtype: torch.dtype) -> Results:
    z, images = (case[key].to(dtype).requires_grad_() for key in ("z", "images"))
    labels, weights = case["labels"], case["weights"]
    conditional = _conditional_loss(cfgs)
    G.train()
    D.train()
    generated = G(z, labels)
    real = D(images, labels)
    fake = D(generated.detach(), labels)
    heads = {name: real[name] for name in HEADS if real[name] is not None}
    total = weighted(heads, weights)
    losses = {}
    if conditional is not None:
        losses["conditional"] = conditional(**real)
        total = total + losses["conditional"]
    for name in ADVERSARIAL:
        cfgs.LOSS.adv_loss = name
        cfgs.define_losses()
        losses[f"{name} d"] = cfgs.LOSS.d_loss(real["adv_output"], fake["adv_output"], DDP=False)
        losses[f"{name} g"] = cfgs.LOSS.g_loss(fake["adv_output"], DDP=False)
    results: Results = {
        "images": {"images": generated.detach()},
        "heads": {name: head.detach() for name, head in heads.items()},
        "losses": {name: loss.detach() for name, loss in losses.items()},
        "generator's gradients": gradients(weighted({"images": generated}, weights), G, z),
        "discriminator's gradients": gradients(total, D, images),
        "generator after": states(G),
        "discriminator after": states(D),
    }
    with torch.no_grad():
        results["images, evaluating"] = {"images": G.eval()(z, labels)}
        judged = D.eval()(images, labels)
        results["heads, evaluating"] = {name: judged[name] for name in heads}
    return results


def losses(case: dict[str, Any]) -> Results:
    cfgs = _configurations(case["sections"])
    with computing_in(torch.float64):
        inputs = {key: case[key].double().requires_grad_() for key in ("adv_output", "embed", "proxy", "cls_output")}
        fake = case["fake"].double().requires_grad_()
        results = {}
        loss = _conditional_loss(cfgs)
        if loss is not None:
            results["conditional"] = loss(**inputs, label=case["labels"])
        cfgs.define_losses()
        results["d"] = cfgs.LOSS.d_loss(inputs["adv_output"], fake, DDP=False)
        results["g"] = cfgs.LOSS.g_loss(fake, DDP=False)
        wanted = [*inputs.values(), fake]
        found = torch.autograd.grad(sum(results.values()), wanted, allow_unused=True, materialize_grads=True)
    return {
        "losses": {name: value.detach() for name, value in results.items()},
        "gradients": dict(zip([*inputs, "fake"], found, strict=True)),
    }


def training(case: dict[str, Any]) -> Results:
    with computing_in(case["dtype"]):
        return _train(case)


def _train(case: dict[str, Any]) -> Results:
    from worker import WORKER

    cfgs = _configurations(case["sections"])
    made = _networks(cfgs, case["seed"])
    initial = {"generator": states(made.generator), "discriminator": states(made.discriminator)}
    cfgs.define_optimizer(made.generator, made.discriminator)
    worker = WORKER(
        cfgs=cfgs,
        run_name="parity",
        Gen=made.generator,
        Dis=made.discriminator,
        Gen_ema=made.averaged,
        ema=made.ema,
        train_dataloader=None,
        global_rank=0,
        local_rank=0,
        logger=None,
        aa_p=cfgs.AUG.ada_initial_augment_p,
        best_step=0,
        **dict.fromkeys(_NOT_HERE.split()),
    )
    if cfgs.AUG.apply_ada:
        _keep_filter(cfgs.AUG.series_augment)
    optimization = cfgs.OPTIMIZATION
    each = optimization.d_updates_per_step * optimization.acml_steps
    batches = [(images.to(case["dtype"]), labels) for images, labels in case["batches"]]
    baskets = [batches[i : i + each] for i in range(0, len(batches), each)]
    worker.epoch_counter = 0
    worker.train_iter = iter([tuple(map(torch.cat, zip(*basket, strict=True))) for basket in baskets])
    torch.manual_seed(case["seed"])
    rows = []
    for step in range(len(baskets)):
        if optimization.d_first:
            conditional, d_loss = worker.train_discriminator(step)
            g_loss = worker.train_generator(step)
        else:
            g_loss = worker.train_generator(step)
            conditional, d_loss = worker.train_discriminator(step)
        p = float(worker.aa_p) if cfgs.AUG.apply_ada else 0.0
        rows.append([float(d_loss), float(g_loss), 0.0 if conditional == "N/A" else float(conditional), p])
    results = {
        "initial": initial,
        "losses": torch.tensor(rows, dtype=torch.float64),
        "generator": states(made.generator),
        "discriminator": states(made.discriminator),
    }
    return results if made.averaged is None else results | {"averaged": states(made.averaged)}


def _keep_filter(pipe: Any) -> None:
    """Set ADA's filter back to float32: StudioGAN accepts no other, whatever the images' dtype."""
    pipe.Hz_geom = pipe.Hz_geom.float()


def sampler(case: dict[str, Any]) -> Results:
    import utils.sample as sample

    torch.manual_seed(case["seed"])
    z, labels, _ = sample.sample_zy(**case["arguments"], truncation_factor=-1.0, radius="N/A", device="cpu")
    return {"z": z, "labels": labels}


def augmentation(case: dict[str, Any]) -> Results:
    cfgs = _configurations({"AUG": case["aug"]})
    with computing_in(case["dtype"]):
        cfgs.define_augments("cpu")
        augment = cfgs.AUG.series_augment
        if cfgs.AUG.apply_ada:
            augment.p.copy_(torch.as_tensor(case["aug"]["ada_initial_augment_p"]))
            _keep_filter(augment)
        images = case["images"].to(case["dtype"]).requires_grad_()
        torch.manual_seed(case["seed"])
        augmented = augment(images)
        (gradient,) = torch.autograd.grad((augmented * case["weights"].to(case["dtype"])).sum(), images)
    return {"images": augmented.detach(), "gradient": gradient}


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    _, source, cases, out = sys.argv
    sys.path.insert(0, source)
    redirect_devices_to_cpu()
    torch.set_num_threads(1)
    # torch.FloatTensor ignores the default dtype.  In these cases only sample_zy uses it, for uniform noise.
    torch.FloatTensor = torch.empty  # type: ignore[misc]
    kinds = {f.__name__: f for f in (defaults, network, losses, training, sampler, augmentation)}
    torch.save([kinds[case["kind"]](case) for case in torch.load(cases, weights_only=False)], Path(out))
