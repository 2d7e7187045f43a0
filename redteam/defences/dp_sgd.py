"""DP-SGD (Abadi et al. 2016) by Opacus: every image's gradient is clipped, and noise hides whether it was there."""

import math
import time
import warnings
from dataclasses import dataclass, replace
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional

from cleanlabel.redteam.defences.interface import Context, Defended, answers_of, required_extractor
from cleanlabel.redteam.defences.loop import Trainee, augmented, new_head, on_features, require_loop, trainee
from cleanlabel.redteam.threat.victims import Victim
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet


@dataclass(frozen=True)
class DpSgd:
    """Training that is (epsilon, delta)-differentially private by Renyi accounting, of Poisson-sampled batches.

    epsilon 1 and delta .05 are the paper's (section 4.3). Such a delta is far above one in n: by itself it would allow
    publishing one image in twenty; it is the published setting, not a private one. clip: norm of one image's gradient.
    BatchNorm mixes images and is replaced by GroupNorm. On a frozen extractor the head alone is trained, on features;
    a head starts at random in any scenario, since a fitted one depends on the images.
    Reported: the epsilon that the accountant found for delta, and the noise multiplier. Sampling and noise follow from
    the seed, so that a run can be repeated; whoever publishes such a network must keep the seed secret.
    """

    epsilon: float = 1.0
    delta: float = 0.05
    clip: float = 1.0

    def require(self, raw: ImageSet, victim: Victim, context: Context) -> None:
        """InputError for settings out of range, without Opacus, or where GroupNorm would break the extractor."""
        opacus_installed()
        if not (math.isfinite(self.epsilon) and self.epsilon > 0 and 0 < self.delta < 1):
            raise InputError(
                f"epsilon={self.epsilon:g} and delta={self.delta:g} are out of range; give an epsilon above 0 and a "
                "delta strictly between 0 and 1"
            )
        if not self.clip > 0:
            raise InputError(f"clip={self.clip:g} is out of range; give a norm above 0")
        require_loop(victim)
        if victim.recipe.normalise != "constants":
            raise InputError("statistics of the images would leak; set the recipe's normalise to constants")
        if victim.scenario == "fine-tune" and _has_batch_norm(victim):
            raise InputError(
                "DP-SGD replaces BatchNorm by GroupNorm, with which the extractor's weights do not work; choose "
                "transfer or scratch, or an extractor without BatchNorm"
            )

    def fit(self, raw: ImageSet, victim: Victim, context: Context, seed: int) -> Defended:
        """See `Defence.fit`."""
        self.require(raw, victim, context)
        started = time.perf_counter()
        student = trainee(raw, victim, seed)
        generator = torch.Generator().manual_seed(seed)
        if not student.frozen:
            if victim.scenario == "fine-tune":
                student.model[1] = new_head(required_extractor(victim), victim, seed)
            student = replace(student, model=_by_image(student.model))
        epsilon, multiplier = self._trained(on_features(student, raw, victim), generator)
        answers = answers_of(student.finished(raw.image_shape), victim, context)
        facts = {"epsilon": epsilon, "delta": self.delta, "noise multiplier": multiplier}
        return Defended(answers, time.perf_counter() - started, facts=facts)

    def _trained(self, student: Trainee, generator: torch.Generator) -> tuple[float, float]:
        """Train in place; the epsilon spent and the noise multiplier."""
        opacus = opacus_installed()
        recipe, model, inputs, n = student.recipe, student.model, student.inputs, len(student.inputs)
        steps, rate = recipe.epochs * -(-n // recipe.batch), min(1.0, recipe.batch / n)
        multiplier = noise_multiplier(self.epsilon, self.delta, rate, steps)
        noise_seed = int(torch.randint(2**62, (), generator=generator))  # not the stream that samples the batches
        guarded = opacus.GradSampleModule(model.train())
        optimiser = opacus.optimizers.DPOptimizer(
            torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay),
            noise_multiplier=multiplier,
            max_grad_norm=self.clip,
            expected_batch_size=max(1, round(rate * n)),
            generator=torch.Generator(inputs.device).manual_seed(noise_seed),
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser.original_optimizer, lambda step: 1 - step / steps)
        for _ in range(steps):
            rows = torch.nonzero(torch.rand(n, generator=generator) < rate)[:, 0]
            batch = inputs[rows] if student.frozen else augmented(inputs[rows], recipe, generator)
            loss = functional.cross_entropy(
                guarded(batch), student.targets[rows], label_smoothing=recipe.label_smoothing
            )
            optimiser.zero_grad()
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Full backward hook is firing")  # the pixels need no gradient
                loss.backward()
            optimiser.step()
            schedule.step()
        guarded.remove_hooks()
        return spent(multiplier, rate, steps, self.delta), multiplier


def noise_multiplier(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """The least noise, in units of the clip, for which `steps` steps at this rate are (epsilon, delta)-private."""
    opacus = opacus_installed()
    try:
        return float(
            opacus.accountants.utils.get_noise_multiplier(
                target_epsilon=epsilon, target_delta=delta, sample_rate=rate, steps=steps, accountant="rdp"
            )
        )
    except ValueError as error:
        raise InputError(
            f"epsilon={epsilon:g} at delta={delta:g} is out of reach ({error}); raise one of them"
        ) from error


def spent(multiplier: float, rate: float, steps: int, delta: float) -> float:
    """The epsilon of `steps` steps, by the accountant."""
    accountant = opacus_installed().accountants.RDPAccountant()
    accountant.history = [(multiplier, rate, steps)]
    return float(accountant.get_epsilon(delta))


def opacus_installed() -> ModuleType:
    """Opacus. InputError that names the extra where it is missing."""
    try:
        import opacus
        import opacus.accountants.utils
        import opacus.validators
    except ImportError as error:
        raise InputError(f"DP-SGD needs Opacus ({error}); install it: uv pip install 'cleanlabel[dp]'") from error
    return opacus


class Copied(nn.Module):
    """Returns a copy: Opacus's hooks return views, over which ReLU and shortcuts must not write."""

    def forward(self, x: Tensor) -> Tensor:
        """A copy of x."""
        return x.clone()


def _by_image(model: nn.Sequential) -> nn.Sequential:
    """The network with GroupNorm for BatchNorm, so that every image has a gradient of its own."""
    fixed: nn.Sequential = opacus_installed().validators.ModuleValidator.fix(model)
    for owner in list(fixed.modules()):
        for name, child in owner.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(owner, name, nn.Sequential(child, Copied()))
    return fixed


def _has_batch_norm(victim: Victim) -> bool:
    network = required_extractor(victim).network
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
