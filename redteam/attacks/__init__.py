"""The seven clean-label attacks of the paper's section 4, one module each, with one interface."""

from typing import Any

from cleanlabel.redteam.attacks.bullseye_polytope import BullseyePolytope
from cleanlabel.redteam.attacks.convex_polytope import ConvexPolytope
from cleanlabel.redteam.attacks.hidden_trigger import HiddenTrigger
from cleanlabel.redteam.attacks.label_consistent import LabelConsistent
from cleanlabel.redteam.attacks.poison_frogs import PoisonFrogs
from cleanlabel.redteam.attacks.sleeper_agent import SleeperAgent
from cleanlabel.redteam.attacks.witches_brew import WitchesBrew
from cleanlabel.redteam.threat.attacker import Attack
from cleanlabel.redteam.threat.settings import named

ATTACKS: dict[str, type[Any]] = {
    "frogs": PoisonFrogs,
    "convex": ConvexPolytope,
    "bullseye": BullseyePolytope,
    "witches-brew": WitchesBrew,
    "label-consistent": LabelConsistent,
    "hidden-trigger": HiddenTrigger,
    "sleeper-agent": SleeperAgent,
}
"""By their names on the command line."""


def attack_named(name: str, settings: dict[str, str] | None = None) -> Attack:
    """The attack with its published settings, except those given as text. InputError names what is unknown."""
    found: Attack = named("attack", ATTACKS, name, settings or {})
    return found
