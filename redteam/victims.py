"""The victims: training in the three scenarios, each ending in a network and a linear head."""

import copy
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.classifiers import features_of
from models.extractors import Extractor, features, require_fits
from models.heads import fit_head
from models.params import TrainParams
from models.training import as_tensor, fit, predict_inputs, train
from sanitize.errors import InputError

Scenario = Literal["transfer", "fine-tune", "scratch"]
CPU = torch.device("cpu")
SCENARIOS = get_args(Scenario)


@dataclass(frozen=True, eq=False)
class Victim:
    """Trains as the victim does: a new head on the frozen extractor; extractor and new head, both; or all from scratch.

    InputError where a scenario lacks its extractor, or has one for images of another size.
    """

    scenario: Scenario
    recipe: TrainParams
    classes: int
    image_shape: tuple[int, int, int]
    extractor: Extractor | None = None
    device: torch.device = CPU

    def __post_init__(self) -> None:
        if self.scenario not in SCENARIOS:
            raise InputError(f"scenario {self.scenario!r} is unknown; choose one of {', '.join(SCENARIOS)}")
        if (self.scenario == "scratch") != (self.extractor is None):
            needs = "takes no extractor" if self.extractor else "needs an extractor trained elsewhere"
            raise InputError(f"scenario {self.scenario} {needs}; see --extractor")
        if self.extractor is not None:
            require_fits(self.extractor, self.image_shape)

    def trained(self, images: NDArray[np.uint8], labels: NDArray[np.int64], seed: int) -> Extractor:
        """The victim's network on these images, uint8 (n, h, w, c); the same arguments give the same network."""
        if self.extractor is None:
            model = train(images, labels, self.classes, self.recipe, seed, self.device)
            return Extractor(features_of(model), model[-1], self.image_shape, "")
        if self.scenario == "transfer":
            found = features(self.extractor, images, self.device)
            head = fit_head(found, torch.from_numpy(labels), self.classes, self.recipe.head, self.recipe.head_l2)
            return Extractor(self.extractor.network, head.to(self.device), self.image_shape, "")
        return self._fine_tuned(self.extractor, images, labels, seed)

    def _fine_tuned(
        self, extractor: Extractor, images: NDArray[np.uint8], labels: NDArray[np.int64], seed: int
    ) -> Extractor:
        """All weights learn on, from the extractor's; the head is new and fitted first, so that no chance enters."""
        found = features(extractor, images, self.device)
        head = fit_head(found, torch.from_numpy(labels), self.classes, self.recipe.head, self.recipe.head_l2)
        model = nn.Sequential(copy.deepcopy(extractor.network), head).to(self.device).requires_grad_().train()
        inputs, targets = as_tensor(images).to(self.device), torch.from_numpy(labels).to(self.device)
        fit(model, inputs, targets, self.recipe, self.recipe.epochs, torch.Generator().manual_seed(seed))
        model.eval().requires_grad_(requires_grad=False)
        return Extractor(model[0], model[1], self.image_shape, "")


def answers(network: Extractor, images: NDArray[np.uint8], device: torch.device | str = "cpu") -> NDArray[np.int64]:
    """The predicted class of each image, (n,)."""
    return predict_inputs(nn.Sequential(network.network, network.head), as_tensor(images), device)


def answers_to_features(network: Extractor, found: Tensor) -> NDArray[np.int64]:
    """The same from the network's features, (n, d)."""
    return predict_inputs(network.head.cpu(), found)
