"""A package of someone else, with one regularizer for each role, which write down what they and the networks get."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from support.plugins import MakePackage

# Every regularizer writes a line of JSON for each call to $FACTS/<name>-<rank>.jsonl.
MODULE = """
import json, os
import torch
import torch.distributed as dist

MARK, LABEL = 7.0, 3

def same(one, other):
    return torch.equal(one.detach(), other.detach())

class Watching:
    def __init__(self, generator, class_counts, discriminator, weight=1.0):
        self.weight, self.calls, self.step = weight, 0, -1
        self.networks = {"generator": generator, "discriminator": discriminator}
        self.generated, self.judged, self.mapped = [], [], None
        if hasattr(generator, "mapping"):
            generator.mapping.register_forward_hook(self.on_mapping)
            generator.synthesis.register_forward_hook(self.on_synthesis)
        else:
            generator.register_forward_hook(self.on_generator)
        discriminator.register_forward_hook(self.on_discriminator)
    def on_mapping(self, module, inputs, w):
        self.mapped = inputs[0], inputs[1].argmax(1), w
    def on_synthesis(self, module, inputs, images):
        z, labels, w = self.mapped
        self.generated = [*self.generated, (z, labels, images, w)][-2:]
        self.tell_generated(z, labels)
    def on_generator(self, module, inputs, images):
        z, labels = inputs
        self.generated = [*self.generated, (z, labels, images, None)][-2:]
        self.tell_generated(z, labels)
    def tell_generated(self, z, labels):
        self.tell("generated", marked=bool(z[:, 0].eq(MARK).all() and labels.eq(LABEL).all()), size=len(z),
                  near=bool((z[:, 0] - MARK).abs().max() < 1 and labels.eq(LABEL).all()))
    def on_discriminator(self, module, inputs, output):
        self.judged = [*self.judged, (inputs[0], inputs[1], output["adv_output"].reshape(-1))][-2:]
    def tell(self, call, **facts):
        rank = dist.get_rank() if dist.is_initialized() else 0
        with open(f"{os.environ['FACTS']}/{type(self).__name__.lower()}-{rank}.jsonl", "a") as file:
            file.write(json.dumps({"call": call, **facts}) + chr(10))
    def tell_batch(self, call, batch):
        self.calls += 1
        z, labels, images, w = next(g for g in reversed(self.generated) if same(g[2], batch.images))
        judged, judged_labels, logits = self.judged[-1]
        facts = {
            "step": batch.step,
            "z": same(z, batch.z), "z_begins": same(z[:, :batch.z.shape[1]], batch.z),
            "labels": same(labels, batch.labels) and same(judged_labels, batch.labels),
            "judged": same(judged, batch.images),
            "logits": same(logits, batch.logits) and batch.logits.shape == labels.shape,
            "gradient": batch.images.requires_grad and batch.logits.requires_grad,
            "w": None if batch.w is None else w is not None and same(w, batch.w),
        }
        real = [batch.real_images, batch.real_labels, batch.real_logits]
        if call == "discriminator_loss":
            facts["gradient"] = batch.logits.requires_grad and batch.real_logits.requires_grad
            facts |= {name: same(x, y) for name, x, y in
                      zip(("real_images", "real_labels", "real_logits"), real, self.judged[0])}
            facts["sum"] = batch.real_images.double().sum().item()
        else:
            facts["none"] = real == [None] * 3
        weights = [sum(p.double().sum().item() for p in n.parameters()) for n in self.networks.values()]
        self.tell(call, **facts, weights=weights, noise=batch.z.double().sum().item())
    def scalars(self):
        return {"calls": float(self.calls)}
    def state_dict(self):
        return {"calls": self.calls}
    def load_state_dict(self, state):
        self.calls = state["calls"]

class Pull(Watching):
    def penalty(self):
        self.calls += 1
        self.tell("penalty")
        return self.weight * 1e-3 * sum(p.square().sum() for p in self.networks["generator"].parameters())

class Bright(Watching):
    def generator_loss(self, batch):
        self.tell_batch("generator_loss", batch)
        return self.weight * (1 - batch.images).square().mean()

class Margin(Watching):
    def discriminator_loss(self, batch):
        self.tell_batch("discriminator_loss", batch)
        return self.weight * (batch.real_logits - batch.logits - 1).square().mean()

class Marked(Watching):
    def draw(self, z, labels, update):
        self.calls += 1
        self.tell("draw", update=update, size=len(z))
        if not self.weight:
            return z, labels
        return torch.cat([torch.full_like(z[:, :1], MARK), z[:, 1:]], 1), torch.full_like(labels, LABEL)
"""
ROLES = {
    "pull": "penalty",
    "bright": "generator_loss",
    "margin": "discriminator_loss",
    "marked": "draw",
}


def make_strangers(make_package: MakePackage) -> Path:
    """Install the package; return the folder to put on the import path."""
    entries = {name: f"strange:{name.capitalize()}" for name in ROLES}
    return make_package("strangers", "studiogan.regularizers", entries, {"strange": MODULE})


def calls(facts: Path, name: str, rank: int = 0, call: str | None = None) -> list[dict[str, Any]]:
    """What a regularizer wrote down of calls of its role, or of `call`, in order."""
    lines = (facts / f"{name}-{rank}.jsonl").read_text().splitlines()
    return [found for line in lines if (found := json.loads(line))["call"] == (call or ROLES[name])]


def untrue(found: Iterable[dict[str, Any]], *, but: Iterable[str] = ()) -> set[str]:
    """The facts that are not true of every call, but those named."""
    return {key for call in found for key, value in call.items() if value is False} - set(but)
