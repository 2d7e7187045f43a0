"""The triggers of the backdoor attacks."""

from dataclasses import replace

from cleanlabel.redteam.drill.params import DrillParams
from cleanlabel.redteam.threat.triggers import Trigger

TRIGGERS = {
    "label-consistent": Trigger(3, "bottom-right", 0, "checkerboard"),
    "hidden-trigger": Trigger(5, "bottom-right", 0, "noise"),
    "sleeper-agent": Trigger(8, "random", 0, "noise"),
}
"""Backdoors, each with its authors' trigger at 32x32 pixels (hidden-trigger: the public benchmark's, in the corner)."""


def trigger_for(params: DrillParams) -> Trigger:
    """The attack's published trigger, with the changes that the params name."""
    own = {
        "size": params.trigger_size,
        "place": params.trigger_place,
        "pattern": params.trigger_pattern,
        "offset": params.trigger_offset,
        "amplitude": params.trigger_amplitude,
    }
    return replace(TRIGGERS[params.attack], **{key: value for key, value in own.items() if value is not None})
