"""The victims: training in the three scenarios, each ending in a network and a linear head."""

import copy
from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cleanlabel.models.classifiers import features_of
from cleanlabel.models.extractors import Extractor, features, require_fits
from cleanlabel.models.heads import fit_head
from cleanlabel.models.instrument import Features, Instrument
from cleanlabel.models.params import TrainParams
from cleanlabel.models.training import as_tensor, fit, predict, predict_inputs, train
from cleanlabel.sanitize.device import sent
from cleanlabel.sanitize.errors import InputError

Scenario = Literal["transfer", "fine-tune", "scratch"]
CPU = torch.device("cpu")
SCENARIOS = get_args(Scenario)


@dataclass(frozen=True, eq=False)
class Victim:
    """Trains as the victim does: a new head on the frozen extractor; extractor and new head, both; or all from scratch.

    `instrument`: the public part of a bounded-influence head, made for the victim's sigma. InputError where a scenario
    lacks its extractor, or has one for images of another size.
    """

    scenario: Scenario
    recipe: TrainParams
    classes: int
    image_shape: tuple[int, int, int]
    extractor: Extractor | None = None
    device: torch.device = CPU
    instrument: Instrument | None = None

    def __post_init__(self) -> None:
        if self.scenario not in SCENARIOS:
            raise InputError(f"scenario {self.scenario!r} is unknown; choose one of {', '.join(SCENARIOS)}")
        if (self.scenario == "scratch") != (self.extractor is None):
            needs = "takes no extractor" if self.extractor else "needs an extractor trained elsewhere"
            raise InputError(f"scenario {self.scenario} {needs}; see --extractor")
        if self.scenario == "fine-tune" and self.recipe.head == "bounded-influence":
            raise InputError(
                "recipe.head='bounded-influence' stands on a frozen extractor, and scenario fine-tune trains it on; "
                "choose scenario transfer"
            )
        if self.extractor is not None:
            require_fits(self.extractor, self.image_shape)

    @property
    def summed(self) -> bool:
        """Whether the answer is the class with the largest sum of bounded influences."""
        return self.scenario == "transfer" and self.recipe.head == "bounded-influence"

    def trained(self, images: NDArray[np.uint8], labels: NDArray[np.int64], seed: int) -> Extractor:
        """The victim's network on these images, uint8 (n, h, w, c); the same arguments give the same network."""
        if self.extractor is None:
            model = train(images, labels, self.classes, self.recipe, seed, self.device)
            return Extractor(features_of(model), model[-1], self.image_shape, "")
        if self.scenario == "transfer":
            return self.fitted(features(self.extractor, images, self.device), labels)
        return self._fine_tuned(self.extractor, images, labels, seed)

    def fitted(self, found: Tensor, labels: NDArray[np.int64]) -> Extractor:
        """The victim of transfer, from the extractor's features of its training images (n, d)."""
        extractor = required_extractor(self)
        if self.summed:
            # called like any other head: features in, one number per class out
            head = cast(nn.Linear, SumsHead(self.required_instrument(), found, labels, self.classes))
        else:
            truth = torch.from_numpy(labels)
            head = fit_head(found.float(), truth, self.classes, self.recipe.head, self.recipe.head_l2)
            head = head.to(self.device)
        return Extractor(extractor.network, head, self.image_shape, "")

    def required_instrument(self) -> Instrument:
        """The instrument. InputError without one."""
        if self.instrument is None:
            raise InputError("a bounded-influence head needs its instrument, made for one sigma; give the victim one")
        return self.instrument

    def _fine_tuned(
        self, extractor: Extractor, images: NDArray[np.uint8], labels: NDArray[np.int64], seed: int
    ) -> Extractor:
        """All weights are trained, starting at the extractor's; the new head is fitted first, with no random start."""
        found = features(extractor, images, self.device)
        head = fit_head(found, torch.from_numpy(labels), self.classes, self.recipe.head, self.recipe.head_l2)
        model = nn.Sequential(copy.deepcopy(extractor.network), head).to(self.device).requires_grad_().train()
        inputs, targets = as_tensor(images, self.device), sent(torch.from_numpy(labels), self.device)
        fit(model, inputs, targets, self.recipe, self.recipe.epochs, torch.Generator().manual_seed(seed))
        model.eval().requires_grad_(requires_grad=False)
        return Extractor(model[0], model[1], self.image_shape, "")


class SumsHead(nn.Module):
    """Of test inputs' clean features (n, d) each class's sum of the training images' influences, float64 (n, K)."""

    def __init__(self, instrument: Instrument, found: Tensor, labels: NDArray[np.int64], classes: int) -> None:
        super().__init__()
        self.instrument, self.labels, self.classes = instrument, labels, classes
        self.copy = Features(found)

    def forward(self, asked: Tensor) -> Tensor:
        """The class sums, float64 (n, K), for features (n, d)."""
        sums = self.instrument.class_sums(self.copy, self.labels, self.classes, asked.cpu())
        return torch.from_numpy(sums).double()


def required_extractor(victim: Victim) -> Extractor:
    """The victim's extractor. InputError if it has none."""
    if victim.extractor is None:
        raise InputError(f"scenario {victim.scenario} has no extractor; choose transfer or fine-tune")
    return victim.extractor


def answers(network: Extractor, images: NDArray[np.uint8], device: torch.device | str = "cpu") -> NDArray[np.int64]:
    """The predicted class of each image, (n,)."""
    return predict(nn.Sequential(network.network, network.head), images, device)


def answers_to_features(network: Extractor, found: Tensor) -> NDArray[np.int64]:
    """The predicted class from the network's features (n, d), (n,). The head stays where it is."""
    return predict_inputs(network.head, found, next(network.head.parameters(), found).device)
