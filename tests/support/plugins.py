"""Plug-ins of other packages, for tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

MakePackage = Callable[..., Path]
# A backbone of another package, without weights.
PIXELS = """
import torch, torch.nn.functional as F
class Pixels:
    column, digest = "FD-Pixels", "means of 8 x 8 pixels"
    def __init__(self, device):
        self.calls = 0
    def __call__(self, images):
        self.calls += 1
        features = F.adaptive_avg_pool2d(images.float() / 255, 4).flatten(1)
        return features, features[:, :10]
"""
# Regularizers of another package, one for each role, with a state.  Each shows what it is given to `watch`.
ROLES = """
import torch

class Role:
    watch = staticmethod(lambda *given: None)

    def __init__(self, generator, class_counts, weight=0.1):
        self.generator, self.weight, self.count = generator, weight, torch.zeros(())

    def scalars(self):
        return {"count": float(self.count)}

    def state_dict(self):
        return {"count": self.count.clone()}

    def load_state_dict(self, state):
        self.count = state["count"].clone()

    def given(self, *given):
        self.watch(*given)
        self.count += 1
        # So that a run whose state is lost differs.
        return self.weight * (1 + 0.01 * self.count)

class Ridge(Role):
    def penalty(self):
        return self.given() * sum(p.square().sum() for p in self.generator.parameters())

class Contrast(Role):
    def generator_loss(self, batch):
        return self.given(batch) * (batch.images.float().square().mean() + batch.logits.float().square().mean())

class Drift(Role):
    def discriminator_loss(self, batch):
        return self.given(batch) * (batch.real_logits.float().square().mean() + batch.logits.float().mean())

class Shrink(Role):
    def draw(self, z, labels):
        return z * (1 - self.given(z, labels)), labels if not self.weight else labels.flip(0)
"""
ROLE_NAMES = {
    "ridge": "penalty",
    "contrast": "generator_loss",
    "drift": "discriminator_loss",
    "shrink": "draw",
}


def make_roles(make_package: MakePackage) -> Path:
    """Make the package `roles` with `ROLES`; return its folder."""
    entries = {name: f"many_roles:{name.capitalize()}" for name in ROLE_NAMES}
    return make_package("roles", "studiogan.regularizers", entries, {"many_roles": ROLES})


# A regularizer with one method; `weight` and `judge` are the first parameters of the two networks.
_ONE_ROLE = """
import torch

class {name}:
    needs = ()

    def __init__(self, generator, class_counts, discriminator):
        self.generator, self.discriminator = generator, discriminator
        self.weight, self.judge = next(generator.parameters()), next(discriminator.parameters())
        self.calls, self.kept = 0, []

    def scalars(self):
        return {{}}

    def state_dict(self):
        return {{}}

    def load_state_dict(self, state):
        pass

    def {signature}:
        self.calls += 1
        {body}
"""
SIGNATURES = {
    "penalty": "penalty(self)",
    "generator_loss": "generator_loss(self, batch)",
    "discriminator_loss": "discriminator_loss(self, batch)",
    "draw": "draw(self, z, labels)",
}


def one_role(name: str, role: str, body: str) -> str:
    """Return a module with a regularizer of one role that has this body; any other name of a role gives none."""
    return _ONE_ROLE.format(name=name, signature=SIGNATURES.get(role, "other(self)"), body=body)
