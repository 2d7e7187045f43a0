"""Whether a plan can pass its gate: the radius of unanimous votes, known before any model is made."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from cleanlabel.models.answers import largest_radius
from cleanlabel.models.anytime import look_shares
from cleanlabel.models.params import GateParams
from cleanlabel.models.plan import Plan, chosen_looks, least_models
from cleanlabel.models.rounding import down_text, exact, up
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.noise import LARGEST_SIGMA

MOST_MODELS = 100_000
"""The largest number of models that a message suggests; more would not be practical."""


def radius_asked(gate: GateParams) -> float:
    """The largest joint radius at which the gate requires certified accuracy; -1 if it requires none."""
    return max((asked.radius for asked in gate.certified_accuracy if asked.at_least > 0), default=-1.0)


def reach(plan: Plan, attempt: int) -> float:
    """The largest radius that the plan's ensemble can certify, over all looks at which it may stop."""
    return max(largest_radius(plan, attempt, t) for t in (plan.looks or (plan.m,)))


def require_reach(plan: Plan, attempt: int, asked: float) -> None:
    """InputError unless the plan's ensemble could certify a radius above `asked`, the gate's largest."""
    largest = reach(plan, attempt)
    if asked < 0 or largest > asked or not plan.certifiable:
        return
    if not plan.sigma:
        raise InputError(
            f"the gate requires certified accuracy at R = {exact(asked)}, and without noise (sanitize.sigma=0) no "
            "radius is certified: remove the radii of gate.certified_accuracy, ask for counts (gate.rewritten, "
            "gate.relabelled), or give a sigma above 0"
        )
    models = _least(lambda m: reach(with_models(plan, m), attempt) > asked, plan.m, MOST_MODELS)
    sigma = up(plan.sigma * asked / largest + 1e-9, 3) if largest else np.inf
    ways = [f"raise smooth.m to at least {models}"] if models else []
    if sigma <= LARGEST_SIGMA and reach(replace(plan, sigma=sigma), attempt) > asked:
        ways.append(f"raise sanitize.sigma to at least {exact(sigma)}")
    ways.append("lower the radii of gate.certified_accuracy")
    again = f" in attempt {attempt + 1} on this raw set" if attempt else ""
    raise InputError(
        f"the gate requires certified accuracy at R = {exact(asked)}, and smooth.m={plan.m} models at "
        f"sanitize.sigma={plan.sigma:g} certify radii up to {down_text(largest)}{again}, where all of them agree: "
        f"{', '.join(ways[:-1])}{' or ' if len(ways) > 1 else ''}{ways[-1]}"
    )


def with_models(plan: Plan, m: int) -> Plan:
    """The plan with m models and, if it has looks, the looks for m."""
    if plan.stopping == "none":
        return replace(plan, m=m)
    looks = chosen_looks(m, least_models(plan.level(0), plan.method, plan.classes), plan.batch_of_draws)
    return replace(plan, m=m, looks=looks, shares=look_shares(looks) if plan.stopping == "looks" else ())


def _least(enough: Callable[[int], bool], low: int, most: int) -> int | None:
    """The least m in low+1..most for which enough(m), by bisection; None if `most` is not enough."""
    if low >= most or not enough(most):
        return None
    high = most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
