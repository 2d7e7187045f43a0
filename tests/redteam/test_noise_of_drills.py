"""Rules 2, 4 and 7 in drills: attacker, victim and control share no noise, and a rival's radius is at its own sigma."""

from collections import Counter
from pathlib import Path

import numpy as np
from noise_source import record
from redteam_sets import RECIPE, digit_extractor, digit_sets
from tiny import FIXED

from cleanlabel.models.certificate import certify
from cleanlabel.models.plan import noise_distance_of
from cleanlabel.redteam.defences.interface import Context
from cleanlabel.redteam.defences.noise_only import NoiseOnly
from cleanlabel.redteam.drill.params import checked
from cleanlabel.redteam.drill.prepare import prepared
from cleanlabel.redteam.drill.run import run_drill
from cleanlabel.redteam.threat.victims import Victim

TRANSFER = Victim("transfer", RECIPE, 10, (8, 8, 1), digit_extractor())
EVERYONE = {
    "attack": "bullseye",
    "settings": {"steps": "2"},
    "scenario": "scratch",
    "targets": 1,
    "sigma": [0.5],
    "poisons": 12,
    "epsilon_255": 128.0,
    "adaptive": True,
    "chances": 1,
    "ensemble": 11,
    "entropy": "fixed:7",
    "recipe": {"epochs": 2, "width": 16},
}


def test_attacker_control_ensemble_and_victim_never_share_the_noise_of_an_image(project, monkeypatch):
    asked = record(monkeypatch)
    drill = prepared(checked(EVERYONE))
    run_drill(drill, Path("out"))
    assert {one.role for one in asked} == {"noise"}
    victim, control, ensemble, attacker = 1, 1, drill.params.ensemble, drill.params.networks
    assert len({one.draw for one in asked}) == victim + control + ensemble + attacker


def test_every_member_of_a_rivals_ensemble_has_noise_of_its_own(monkeypatch):
    raw = digit_sets()["raw"]
    asked = record(monkeypatch)
    for target in range(2):
        NoiseOnly(models=3).fit(raw, TRANSFER, Context(sigma=0.1, entropy=FIXED, draw=target), 0)
    assert len({one.draw for one in asked}) == 6
    assert Counter(asked).most_common(1)[0][1] == 1
    assert not {one.image_id for one in asked} - {*raw.ids}


def test_a_rivals_radius_is_that_of_its_votes_at_its_sigma():
    raw, test = digit_sets()["raw"], digit_sets()["test"]
    defended = NoiseOnly(models=12).fit(raw, TRANSFER, Context(sigma=0.1, entropy=FIXED), 0)
    votes = defended.votes(test.images)
    counts = np.stack([(votes == c).sum(axis=0) for c in range(10)], axis=1)
    distance = noise_distance_of(len(raw), raw.image_shape, 0.1)
    label, radius = certify(counts, 12, 0.1, 0.001, distance=distance)
    found = defended.radius(test.images)
    assert radius.max() > 0
    np.testing.assert_array_equal(found[0], label)
    np.testing.assert_array_equal(found[1], radius)
