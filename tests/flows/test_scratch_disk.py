"""The scratch disk is a setting of the machine: the plan and the votes are the same with it and without."""

import pytest
from filled import filled
from models_recipes import QUICK
from registered import make_plan, make_sets
from tiny import FIXED

from cleanlabel.flows.ensemble import scratch as checks
from cleanlabel.flows.ensemble import worker
from cleanlabel.flows.ensemble.assembly import assemble
from cleanlabel.flows.ensemble.opening import open_ensemble
from cleanlabel.flows.ensemble.scratch import require_scratch
from cleanlabel.models.draw import make_batch
from cleanlabel.models.plan import recipe_of
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import load
from cleanlabel.sanitize.paths import SETS

MOVED = recipe_of(QUICK.model_copy(update={"epochs": 1, "shift": 1}))


def test_workers_take_it_from_the_environment_and_record_the_same_votes(store, tmp_path, monkeypatch):
    make_sets()
    ensemble = open_ensemble(store, make_plan(entropy_spec=f"fixed:{FIXED.hex()}", recipe=MOVED))
    in_memory = list(make_batch(worker.prepare(ensemble.plan), FIXED, range(3)))
    monkeypatch.setenv("CLEANLABEL_SCRATCH", str(tmp_path))
    assert worker.prepare(ensemble.plan).scratch == tmp_path
    assert make_plan(entropy_spec=f"fixed:{FIXED.hex()}", recipe=MOVED).digest == ensemble.plan.digest
    assert worker.train_batch(ensemble.run_id, range(3), [0, 1, 2], "none", "processes") == 3
    votes = assemble(store, ensemble).votes
    for made in filled(in_memory):
        assert votes[made.draw].tolist() == made.votes.tolist()


def test_room_for_all_workers_of_this_machine_is_asked_for_before_the_first_draw(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_sets()
    plan, asked = make_plan(recipe=MOVED), []
    monkeypatch.setattr(checks, "require_room", lambda *room: asked.append(room))
    require_scratch(plan, "processes")
    assert not asked
    monkeypatch.setenv("CLEANLABEL_SCRATCH", "disk")
    monkeypatch.setenv("CLEANLABEL_WORKERS", "3")
    require_scratch(plan, "processes")
    assert asked == [(tmp_path / "disk", 4 * load(SETS["raw"]).images.size, 3)]
    require_scratch(plan, "ray")  # its workers may be on other machines
    require_scratch(make_plan(), "processes")  # a stack stays in memory
    assert len(asked) == 1


def test_a_recipe_that_cannot_is_refused_before_the_first_draw(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_sets()
    monkeypatch.setenv("CLEANLABEL_SCRATCH", str(tmp_path))
    plan = make_plan(recipe=MOVED | {"normalise": "copy"})
    with pytest.raises(InputError, match="train.normalise='copy'"):
        require_scratch(plan, "processes")
