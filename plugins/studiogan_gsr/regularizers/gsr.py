"""The group Spectral Regularizer (gSR; Rangwani et al., ECCV 2022).

For conditional layer l and class y, the gain and bias vectors, cut into groups, are matrices
Gamma_y^l and B_y^l.  The penalty is

    1 / (L C) * sum_l sum_y lambda_y * ( sigma_max(Gamma_y^l)^2 + sigma_max(B_y^l)^2 )

over L layers and C classes.  It is added at every generator step, for all classes, whatever labels
were drawn.  The division by L C is in the authors' program, not in the paper's formula; the usual
values of `weight` assume it.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from studiogan_gsr.class_groups import frequency_thirds
from studiogan_gsr.errors import GeneratorError, OptionError
from studiogan_gsr.regularizers.affines import find_conditional_layers
from studiogan_gsr.regularizers.conventions import check_conventions
from studiogan_gsr.regularizers.mapping import MAPPING, find_mapping_networks
from studiogan_gsr.regularizers.options import check_amount, check_flag
from studiogan_gsr.regularizers.precision import at_least_float32
from studiogan_gsr.regularizers.readers import check_readers
from studiogan_gsr.regularizers.spectral import (
    MAX_ITERATIONS,
    group_shape,
    group_spectral_norms,
    leading_vectors,
    power_iteration,
    released_power_iteration,
)
from studiogan_gsr.regularizers.stacks import StackReader
from studiogan_gsr.regularizers.weights import effective_number_weights, images_of_equal_weight
from studiogan_gsr.settings import is_int, is_number

SIDES = ("gain", "bias")
# At its first call, the authors' program makes ten times as many iterations; the gain side converges in them.
_RELEASED_FIRST = 10


@dataclass(frozen=True)
class GSROptions:
    """Options of `GroupSpectralRegularizer`, which documents them; impossible values raise OptionError."""

    weight: float = 0.5
    beta: float | None = 0.99
    power_iterations: int = 4
    groups: int | str = "square"
    apply_to: Sequence[str] = SIDES
    released_bias_update: bool = False

    def __post_init__(self) -> None:
        check_amount("weight", self.weight)
        if self.beta is not None and not (is_number(self.beta) and 0 <= self.beta < 1):
            raise OptionError("beta", self.beta, "a number in [0, 1), or null for equal class weights")
        if not is_int(self.power_iterations) or not 0 <= self.power_iterations <= MAX_ITERATIONS:
            allowed = f"an integer from 0 (exact) to {MAX_ITERATIONS}"
            raise OptionError("power_iterations", self.power_iterations, allowed)
        if self.groups != "square" and not (is_int(self.groups) and int(self.groups) >= 1):
            raise OptionError("groups", self.groups, "'square' or a positive integer")
        sides = [self.apply_to] if isinstance(self.apply_to, str) else self.apply_to
        if (
            not isinstance(sides, list | tuple)
            or not sides
            or not (all(side in SIDES for side in sides) or list(sides) == [MAPPING])
            or len(set(sides)) != len(sides)
        ):
            raise OptionError("apply_to", self.apply_to, "a list of gain, bias or both; or [mapping], for StyleGAN")
        object.__setattr__(self, "apply_to", tuple(side for side in (*SIDES, MAPPING) if side in sides))
        check_flag("released_bias_update", self.released_bias_update)
        if self.released_bias_update and (self.apply_to != SIDES or self.power_iterations == 0):
            raise OptionError(
                "released_bias_update",
                True,
                "false, unless apply_to is [gain, bias] and power_iterations > 0",
            )

    def __str__(self) -> str:
        values = vars(self).items()
        return ", ".join(f"{key} {'+'.join(value) if isinstance(value, tuple) else value}" for key, value in values)


@dataclass(frozen=True)
class _Matrices:
    """Where to read all maps with the same number of channels; a map is one side (gain or bias) of one layer.

    parts: indices of the stacks of `StackReader.read` that hold these maps.  positions: the maps' positions there.
    shape: (n_g, n_c) of a matrix, one for each map and class.
    """

    channels: int
    parts: list[int]
    positions: list[int]
    shape: tuple[int, int]


class GroupSpectralRegularizer(nn.Module):
    """gSR over a generator's class-conditional layers; a `studiogan.regularizers` plug-in.

    generator: any module that `class_conditional_affines` can read.  It is not registered as a
        submodule, and nothing in it changes except gradients, by `penalty().backward()`.
    class_counts: training images per class, in label order.
    weight: lambda, the mean of the class weights; 0 only logs the norms.
    beta: of the effective number of samples; None gives all classes the same weight.
    power_iterations: per call, starting from the last call's vectors; 0 computes exact norms by SVD in float64.
    groups: "square", or the number of groups n_g, which must divide every layer's channels.
    apply_to: the sides that are penalised, gain, bias or both.  Or `mapping` alone, experimental: the map from
        class to w of a StyleGAN generator, which has no gains and biases (see mapping.py).
    released_bias_update: update the bias side's vectors as the authors' program does, which
        underestimates its norms; only to compare with that program's numbers.

    Buffers `u_<d>` (maps, classes, n_g) and `v_<d>` (maps, classes, n_c) hold the singular vectors
    of all layers with d channels; a map is one side of one layer.  Buffer `warm` says whether they
    have been computed.  A new regularizer first iterates to convergence; one that loads saved
    vectors continues exactly where they were saved.
    """

    warm: Tensor
    # Names of the options in the paper, the authors' program and elsewhere; for messages.
    also_called: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("lambda", "lambda_", "lambd", "lam", "gsr_lambda", "lambda_gsr", "reg_weight"), "weight"),
        **dict.fromkeys(
            ("n_power_iterations", "num_iters", "n_iter", "iterations", "power_iters"), "power_iterations"
        ),
        **dict.fromkeys(("n_g", "num_groups", "n_groups", "group"), "groups"),
        **dict.fromkeys(("effective_number", "cb_beta", "alpha"), "beta"),
        **dict.fromkeys(("sides", "apply"), "apply_to"),
    }

    def __init__(
        self,
        generator: nn.Module,
        class_counts: Sequence[int],
        weight: float = 0.5,
        beta: float | None = 0.99,
        power_iterations: int = 4,
        groups: int | str = "square",
        apply_to: Sequence[str] = SIDES,
        released_bias_update: bool = False,
    ) -> None:
        super().__init__()
        self.options = GSROptions(weight, beta, power_iterations, groups, apply_to, released_bias_update)
        find = find_mapping_networks if self.options.apply_to == (MAPPING,) else find_conditional_layers
        self._layers = find(generator)
        check_conventions(self._layers)
        self._unchecked = check_readers(generator, self._layers, len(class_counts))
        self._reader = StackReader(self._layers, self.options.apply_to)
        self.class_counts = [int(n) for n in class_counts]
        self._num_classes = len(class_counts)
        self._weights = torch.from_numpy(
            self.options.weight * effective_number_weights(class_counts, self.options.beta)
        )
        thirds = {third: labels for third, labels in frequency_thirds(class_counts).items() if labels}
        self._thirds = list(thirds)
        # (thirds, classes): whether the class is in the third.
        self._in_third = torch.zeros(len(thirds), self._num_classes, dtype=torch.bool)
        for members, labels in zip(self._in_third, thirds.values(), strict=True):
            members[labels] = True
        self._last: tuple[Tensor, Tensor] | None = None
        if not power_iterations:
            self.phase = None  # type: ignore[method-assign,assignment]  # an SVD waits for the device

        self.register_buffer("warm", torch.zeros((), dtype=torch.bool))
        self._warm = False  # the buffer's value, readable without waiting for a device
        with torch.no_grad():
            self._matrices = self._plan()
            for matrices, stack in self._stacks():
                channels, (maps, classes, n_g, n_c) = matrices.channels, stack.shape
                if classes != self._num_classes:
                    raise GeneratorError(
                        f"the generator's conditional layers with {channels} channels have {classes} classes, "
                        f"the data has {self._num_classes}: DATA.num_classes must equal the number of classes"
                    )
                self.register_buffer(f"u_{channels}", stack.new_zeros(maps, classes, n_g))
                self.register_buffer(f"v_{channels}", stack.new_zeros(maps, classes, n_c))
                if released_bias_update:
                    order = sorted(range(maps), key=matrices.positions.__getitem__)  # positions are 2 * layer + side
                    order_of_sides = torch.tensor(order[0::2] + order[1::2], device=stack.device)
                    self.register_buffer(f"order_{channels}", order_of_sides, persistent=False)

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Raise OptionError for options that no generator could be regularized with."""
        GSROptions(**{field.name: options[field.name] for field in fields(GSROptions) if field.name in options})

    def penalty(self) -> Tensor:
        """Return the penalty, a scalar with gradient to every parameter that gains and biases depend on."""
        layers, classes = len(self._layers), self._num_classes
        total: Tensor | None = None
        norms = []
        with _no_autocast():
            for matrices, stack in self._stacks():
                sigma = self._norms(matrices, stack)
                if self._weights.device != sigma.device or self._weights.dtype != sigma.dtype:
                    self._weights = self._weights.to(sigma)
                part = (sigma.square() * self._weights).sum()
                total = part if total is None else total + part
                norms.append(sigma.detach())
            assert total is not None
            value = total / (layers * classes)
        if not self._warm and self.options.power_iterations:
            self.warm.fill_(True)
            self._warm = True
        # Largest norm of each class over layers and sides: (classes,).
        self._last = (value.detach(), torch.cat(norms).amax(0))
        return value

    def phase(self, step: int) -> bool:
        """Return whether the vectors have been computed; nothing else in `penalty` changes."""
        return self._warm

    def scalars(self) -> dict[str, Tensor]:
        """Return the penalty and the largest norms of head, middle and tail classes at the last `penalty()`.

        They are scalar tensors on the device.
        """
        if self._last is None:
            with torch.no_grad():
                self.penalty()
        assert self._last is not None
        value, largest = self._last
        self._in_third = self._in_third.to(largest.device)
        norms = torch.where(self._in_third, largest, -torch.inf).amax(1).unbind()
        return {"penalty": value, **{f"norm_{third}": norm for third, norm in zip(self._thirds, norms, strict=True)}}

    @torch.no_grad()
    def class_norms(self) -> dict[str, dict[str, Tensor]]:
        """Return the current exact norms of the penalised sides, {layer name: {side: (classes,)}}."""
        sides = self.options.apply_to
        result: dict[str, dict[str, Tensor]] = {layer.name: {} for layer in self._layers}
        with _no_autocast():
            for matrices, stack in self._stacks():
                for position, sigma in zip(matrices.positions, group_spectral_norms(stack), strict=True):
                    layer, side = divmod(position, len(sides))
                    result[self._layers[layer].name][sides[side]] = sigma
        return result

    def class_gradient_norms(self) -> Tensor:
        """Return the norm of the penalty's gradient with respect to each class's gains and biases, (classes,).

        In closed form, with exact singular vectors: the gradient of sigma^2 is 2 sigma u v^T, with unit u and v.
        """
        norms = torch.stack([side for layer in self.class_norms().values() for side in layer.values()])
        sizes: Tensor = 2 * self._weights.to(norms) * norms.norm(dim=0) / (len(self._layers) * self._num_classes)
        return sizes

    def extra_repr(self) -> str:
        layers, sides, classes = len(self._layers), len(self.options.apply_to), self._num_classes
        vectors = dict(self.named_buffers())
        shapes = [f"{u.shape[-1]}x{vectors['v' + d[1:]].shape[-1]}" for d, u in vectors.items() if d[0] == "u"]
        matrices = f"{layers} layers, {layers * sides * classes} matrices of {' and '.join(shapes)}"
        return "; ".join([f"{matrices}, {self.options}, {self._weights_summary()}", *self._unchecked])

    def _weights_summary(self) -> str:
        """Return text: the range of the class weights, and the number of images above which they hardly differ."""
        low, high = float(self._weights.min()), float(self._weights.max())
        if low == high:
            return f"class weights all {low:.3g}"
        enough = images_of_equal_weight(self.options.beta)
        equal = sum(count >= enough for count in self.class_counts)
        same = (
            f", equal within 1 % from {enough} images on ({equal} of {self._num_classes} classes)"
            if equal > 1
            else ""
        )
        return f"class weights {low:.3g} to {high:.3g}{same}"

    def _plan(self) -> list[_Matrices]:
        """Group the reader's stacks by number of channels; return one `_Matrices` for each, by rising channels."""
        parts: dict[int, list[int]] = defaultdict(list)
        positions: dict[int, list[int]] = defaultdict(list)
        for part, (places, stack) in enumerate(self._reader.read()):
            parts[stack.shape[-1]].append(part)
            positions[stack.shape[-1]] += places
        shapes = {channels: group_shape(channels, self.options.groups) for channels in parts}
        return [_Matrices(c, parts[c], positions[c], shapes[c]) for c in sorted(parts)]

    def _stacks(self) -> Iterator[tuple[_Matrices, Tensor]]:
        """Yield, for each number of channels, its `_Matrices` and a tensor (maps, classes, n_g, n_c).

        The tensor's maps are in the order of `positions`.
        """
        read = [stack for _, stack in self._reader.read()]
        for matrices in self._matrices:
            stacks = [at_least_float32(read[part]) for part in matrices.parts]
            stack = stacks[0] if len(stacks) == 1 else torch.cat(stacks)
            yield matrices, stack.reshape(*stack.shape[:2], *matrices.shape)

    def _norms(self, of: _Matrices, stack: Tensor) -> Tensor:
        """Return the spectral norms (maps, classes) of one stack, after updating its singular vectors."""
        steps = self.options.power_iterations
        if steps == 0:
            return group_spectral_norms(stack)
        matrices = stack.detach()
        if self.get_buffer(f"u_{of.channels}").device != stack.device:
            self.to(stack.device)
        u, v = self.get_buffer(f"u_{of.channels}"), self.get_buffer(f"v_{of.channels}")
        if not self._warm:
            new_u, new_v = leading_vectors(matrices)
        elif not self.options.released_bias_update:
            new_u, new_v = power_iteration(matrices, u, v, steps)
        else:
            new_u, new_v = u, v
        if self.options.released_bias_update:
            new_u, new_v = self._released(self.get_buffer(f"order_{of.channels}"), matrices, new_u, new_v)
        u.copy_(new_u)
        v.copy_(new_v)
        # Not the buffers u and v: the next call overwrites them, and this call's graph may still need its vectors.
        return group_spectral_norms(stack, new_u, new_v)

    def _released(self, order: Tensor, matrices: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors by the authors' update, which pairs every bias map with the gain map of its layer.

        order: (maps,), the places of the gain maps, then those of the bias maps, both in the order of their layers.
        """
        gain, bias = order.chunk(2)
        steps = self.options.power_iterations * (1 if self._warm else _RELEASED_FIRST)
        sides = released_power_iteration(matrices[gain], matrices[bias], u[gain], v[gain], u[bias], v[bias], steps)
        return (
            torch.empty_like(u).index_copy_(0, order, torch.cat([sides[0], sides[2]])),
            torch.empty_like(v).index_copy_(0, order, torch.cat([sides[1], sides[3]])),
        )

    def get_extra_state(self) -> dict[str, Any]:
        """Return what the saved vectors belong to."""
        return {"groups": self.options.groups, "apply_to": list(self.options.apply_to)}

    def set_extra_state(self, state: object) -> None:
        """Do nothing: `_load_from_state_dict` has already compared the saved state with this regularizer."""

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """Load saved vectors, also as part of a larger module's state.

        A state with other `groups` or `apply_to` belongs to other matrices.  It is ignored with a warning, and the
        vectors are recomputed, as in a new run.
        """
        saved, own = state_dict.get(f"{prefix}_extra_state"), self.get_extra_state()
        if saved is not None and saved != own:
            warnings.warn(f"gSR: the saved vectors are of {saved}, not of {own}: they are recomputed", stacklevel=2)
            self.warm.fill_(False)
        else:
            super()._load_from_state_dict(state_dict, prefix, *args)
        self._warm = bool(self.warm)


def _no_autocast() -> torch.amp.autocast_mode.autocast:
    """Return a context that turns autocast off: the penalty is not computed in the host's lower precision."""
    device = "cuda" if torch.is_autocast_enabled("cuda") else "cpu"
    return torch.autocast(device, enabled=False)
