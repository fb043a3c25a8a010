"""Hook on the networks that StudioGAN measures with: a download that fails is one line with its remedy."""

from __future__ import annotations

from typing import Any

from studiogan_gsr.errors import WeightsError, reason
from studiogan_gsr.files import impatient_network
from studiogan_gsr.hosts.studiogan import fid_weights
from studiogan_gsr.hosts.studiogan.hooked.surface import Surface
from studiogan_gsr.hosts.studiogan.types import Original


class NetworkHooks:
    """Hook on `LoadEvalModel`, which downloads the network of FID and of the other -metrics."""

    def surfaces(self) -> list[Surface]:
        """Return the function to wrap, with its hook."""
        return [Surface("metrics.preparation", "LoadEvalModel.__init__", ("eval_backbone",), self.load)]

    def load(self, original: Original, network: Any, **arguments: Any) -> None:
        """Load a network; raise WeightsError if its weights cannot be downloaded."""
        name = str(arguments["eval_backbone"])
        try:
            with impatient_network():
                original(network, **arguments)
        except OSError as error:  # urllib's errors and timeouts are OSErrors
            place = ""
            if name == fid_weights.NETWORK:
                place = f"put {fid_weights.URL} at {fid_weights.weights_path()}, or "
            raise WeightsError(
                f"--eval_backbone {name}: StudioGAN cannot download its weights ({reason(error)}); {place}train with "
                "-metrics none and measure with `studiogan-gsr evaluate`"
            ) from error
