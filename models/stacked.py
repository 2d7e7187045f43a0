"""Train many small networks at once as one network: every layer works on all of them in one call.

Training a network of a few thousand weights takes its time in calls, not in products. `models.training.train` is the
slow twin that trains one at a time. The networks share only the labels: each has its own images, seed and weights.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional

from cleanlabel.models.classifiers import Standardise
from cleanlabel.models.params import TrainParams
from cleanlabel.models.training import architecture_of, as_tensor, initialised
from cleanlabel.sanitize.device import compute_repeatably, is_accelerator, sent

STACKED = {False: ("linear", "mlp"), True: ("linear", "mlp", "small-cnn")}
"""The networks that are stacked on the CPU (False) and on an accelerator (True). On a CPU stacking does not speed up
the small CNN: its grouped convolutions had .8 to 1.1 of the speed of one at a time with 1 to 16 networks, while MLPs of
256 units reach 5."""
MOST_BYTES = 2 * 2**30
"""The most bytes of images, as float32, that a stack may hold at once."""


def stackable(recipe: TrainParams, device: torch.device | str, copies: int, bytes_a_copy: int) -> bool:
    """Whether `copies` networks train at once. It depends on the plan and the kind of device; nothing is timed."""
    small = copies * bytes_a_copy <= MOST_BYTES
    return copies > 1 and small and _alike(recipe) and recipe.architecture in STACKED[is_accelerator(device)]


def never_stacked(recipe: TrainParams) -> bool:
    """Whether networks of this recipe train one by one on every device, so that grouping draws changes no bit."""
    return not (_alike(recipe) and any(recipe.architecture in names for names in STACKED.values()))


def _alike(recipe: TrainParams) -> bool:
    """Whether all networks do the same to all images in every step."""
    plain = recipe.mode == "scratch" and recipe.normalise != "raw" and not recipe.warm_epochs
    return plain and recipe.shift == 0 and not recipe.flip


def train_stack(
    copies: Sequence[NDArray[Any]],
    labels: NDArray[np.int64],
    classes: int,
    recipe: TrainParams,
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
) -> list[nn.Sequential]:
    """One classifier per sanitized copy, each equal to `train` of that copy and seed up to the order of additions.

    copies: (n, h, w, c) each; labels (n,). A network's bits depend on its copy, its seed, its place and the number of
    networks, but not on the others' data. Returned in evaluation mode.
    """
    if is_accelerator(device):
        compute_repeatably()
    inputs = torch.stack([as_tensor(copy, device) for copy in copies])
    targets = sent(torch.from_numpy(labels), device)
    architecture = architecture_of(recipe, copies[0].shape, classes)
    models = [initialised(architecture, seed, None).to(device).train() for seed in seeds]
    for model, pixels in zip(models, inputs, strict=True):
        if isinstance(model[0], Standardise):
            model[0].measure(pixels)
    _fit(models, inputs, targets, recipe, [torch.Generator().manual_seed(seed) for seed in seeds])
    return [model.eval() for model in models]


def _fit(
    models: list[nn.Sequential],
    inputs: Tensor,
    targets: Tensor,
    recipe: TrainParams,
    generators: list[torch.Generator],
) -> None:
    """The loop of `models.training.fit` with a leading axis of networks. Writes the weights back into `models`."""
    parameters, buffers = stack_module_state(models)

    logits = vmap(lambda own, fixed, batch: functional_call(models[0], (own, fixed), (batch,)))
    n = inputs.shape[1]
    rows_of_all = inputs.flatten(0, 1)
    first_row = n * torch.arange(len(models), device=inputs.device)[:, None]
    optimiser = torch.optim.AdamW(
        parameters.values(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    steps = recipe.epochs * -(-n // recipe.batch)
    done = 0
    for _ in range(recipe.epochs):
        order = sent(torch.stack([torch.randperm(n, generator=one) for one in generators]), inputs.device)
        for rows in order.split(recipe.batch, dim=1):
            optimiser.param_groups[0]["lr"] = recipe.learning_rate * (1 - done / steps)
            optimiser.zero_grad()
            batch = rows_of_all.index_select(0, (first_row + rows).flatten()).unflatten(0, rows.shape)
            answers = logits(parameters, buffers, batch)
            loss = functional.cross_entropy(  # the mean per network, summed over networks
                answers.flatten(0, 1),
                targets[rows].flatten(),
                reduction="sum",
                label_smoothing=recipe.label_smoothing,
            )
            (loss / rows.shape[1]).backward()
            optimiser.step()
            done += 1
    with torch.no_grad():
        for row, model in enumerate(models):
            for name, weight in model.named_parameters():
                weight.copy_(parameters[name][row])
