"""The seven clean-label attacks of the paper's section 4, each in a module of its own, on one interface."""

from typing import Any

from redteam.attacks.bullseye_polytope import BullseyePolytope
from redteam.attacks.convex_polytope import ConvexPolytope
from redteam.attacks.hidden_trigger import HiddenTrigger
from redteam.attacks.label_consistent import LabelConsistent
from redteam.attacks.poison_frogs import PoisonFrogs
from redteam.attacks.sleeper_agent import SleeperAgent
from redteam.attacks.witches_brew import WitchesBrew
from redteam.settings import named
from redteam.threat import Attack

ATTACKS: dict[str, type[Any]] = {
    "frogs": PoisonFrogs,
    "convex": ConvexPolytope,
    "bullseye": BullseyePolytope,
    "witches-brew": WitchesBrew,
    "label-consistent": LabelConsistent,
    "hidden-trigger": HiddenTrigger,
    "sleeper-agent": SleeperAgent,
}
"""By the name the command line knows them by."""


def attack_named(name: str, settings: dict[str, str] | None = None) -> Attack:
    """The attack with its published settings, but for those given as text. InputError names what is unknown."""
    found: Attack = named("attack", ATTACKS, name, settings or {})
    return found
