"""The seven clean-label attacks of the paper's section 4, each in a module of its own, on one interface."""

from dataclasses import fields, replace
from typing import Any

from redteam.attacks.bullseye_polytope import BullseyePolytope
from redteam.attacks.convex_polytope import ConvexPolytope
from redteam.attacks.hidden_trigger import HiddenTrigger
from redteam.attacks.label_consistent import LabelConsistent
from redteam.attacks.poison_frogs import PoisonFrogs
from redteam.attacks.sleeper_agent import SleeperAgent
from redteam.attacks.witches_brew import WitchesBrew
from redteam.threat import Attack
from sanitize.errors import InputError

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
    if name not in ATTACKS:
        raise InputError(f"attack {name!r} is unknown; choose one of {', '.join(ATTACKS)}")
    attack = ATTACKS[name]()
    known = {f.name: type(getattr(attack, f.name)) for f in fields(attack)}
    changed: dict[str, Any] = {}
    for key, text in (settings or {}).items():
        if key not in known:
            raise InputError(f"attack {name} has no setting {key!r}; it has {', '.join(known)}")
        try:
            changed[key] = text.lower() in ("true", "1", "yes") if known[key] is bool else known[key](text)
        except ValueError as error:
            raise InputError(f"setting {key}={text!r} of attack {name} is no {known[key].__name__}") from error
    return replace(attack, **changed)
