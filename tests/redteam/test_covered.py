"""The certificate beside the attack: what the clean ensemble certifies for a target, and whether it covers the poisons."""

from pathlib import Path

from redteam.params import checked
from redteam.prepare import prepared
from redteam.run import run_drill

FEW = {
    "attack": "bullseye",
    "settings": {"steps": "40"},
    "targets": 3,
    "sigma": [0.0, 0.25],
    "poisons": 6,
    "epsilon_255": 128.0,
    "entropy": "fixed:7",
    "draws": 5,
    "recipe": {"head": "bounded-influence", "architecture": "mlp", "width": 64, "epochs": 8},
}


def drill(**others):
    return prepared(checked(FEW | others))


def test_smoke(project):
    run_drill(drill(), Path("out"))
    print(Path("out/table.md").read_text())
    raise SystemExit
