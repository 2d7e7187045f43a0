"""Read an ensemble's draws back from the store. A draw that is not as it was recorded is refused by name."""

from dataclasses import dataclass

from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from cleanlabel.flows.ensemble.record import Ensemble, Votes, check_labels, draw_params, draw_tags
from cleanlabel.flows.store.client import TAG, Store, find_runs, read_file, read_json
from cleanlabel.flows.store.registry import SMOOTHED
from cleanlabel.models.votes import merkle_root, votes_from_bytes, votes_hash
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.noise import Entropy, seal


@dataclass(frozen=True)
class Assembly:
    """The finished draws of an ensemble: their runs and their votes, by number."""

    runs: dict[int, Run]
    votes: Votes


def find_draws(store: Store, ensemble: Ensemble) -> tuple[dict[int, Run], list[Run]]:
    """(finished draws by number, runs that never finished). InputError names runs that claim one draw twice."""
    finished: dict[int, Run] = {}
    unfinished = []
    for run in find_runs(store, f"tags.mlflow.parentRunId = '{ensemble.run_id}'"):
        if run.info.status != "FINISHED":
            unfinished.append(run)
            continue
        draw = _draw_number(run)
        if draw in finished:
            raise InputError(
                f"runs {finished[draw].info.run_id} and {run.info.run_id} both claim draw {draw}; "
                "a draw counts once, so delete the one that does not belong"
            )
        if not 0 <= draw < ensemble.draws:
            last = ensemble.draws - 1
            raise InputError(f"run {run.info.run_id} claims draw {draw}; the ensemble has draws 0..{last}")
        finished[draw] = run
    return dict(sorted(finished.items())), unfinished


def assemble(store: Store, ensemble: Ensemble) -> Assembly:
    """Every finished draw with its votes.

    InputError names a run whose tags or params differ from the plan, a run whose votes are absent or do not match
    their recorded hash, and two runs that were made from one noise sample. A missing draw is no error.
    """
    runs, _ = find_draws(store, ensemble)
    votes = {}
    recorded: dict[str | None, list[int]] = {}  # draws that agree on every point have one hash
    for draw, run in runs.items():
        recorded.setdefault(run.data.tags.get(f"{TAG}votes_sha256"), []).append(draw)
    for draw, run in runs.items():
        run_id = run.info.run_id
        if run.data.tags.get(f"{TAG}plan") != ensemble.plan.digest:
            raise InputError(
                f"run {run_id} (draw {draw}) was made for another plan; it does not belong to the ensemble"
            )
        check_labels(run, draw_tags(ensemble.plan, draw), draw_params(ensemble.plan, draw))
        row = votes_from_bytes(read_file(store, run, "votes.npy"), f"run {run_id}")
        if row.shape != ensemble.plan.votes_shape:
            raise InputError(
                f"the votes of run {run_id} (draw {draw}) have the shape {row.shape}, the plan's have "
                f"{ensemble.plan.votes_shape}; it does not belong to the ensemble"
            )
        found = votes_hash(row)
        if found != run.data.tags.get(f"{TAG}votes_sha256"):
            whose = f"; they are those of draw {' or '.join(map(str, recorded[found]))}" if found in recorded else ""
            raise InputError(f"the votes of run {run_id} (draw {draw}) do not match the hash it recorded{whose}")
        votes[draw] = row
    _refuse_one_sample_twice(runs)
    return Assembly(runs, votes)


def _refuse_one_sample_twice(runs: dict[int, Run]) -> None:
    same_copy = "trained on the same sanitized copy (one noise sample twice, or too little noise to change a pixel)"
    for tag, shared in (("seal", "were made from the same seed"), ("copy_sha256", same_copy)):
        seen: dict[str, Run] = {}
        for draw, run in runs.items():
            mark = run.data.tags.get(f"{TAG}{tag}")
            if mark is None:
                raise InputError(
                    f"run {run.info.run_id} (draw {draw}) recorded no {tag}; it does not belong to the ensemble"
                )
            if mark in seen:
                raise InputError(
                    f"runs {seen[mark].info.run_id} and {run.info.run_id} {shared}; draws must be independent, so "
                    f"delete the second (draw {draw}) and run `dvc repro smooth`"
                )
            seen[mark] = run


def check_seals(assembly: Assembly, entropy: Entropy) -> None:
    """InputError names a run whose noise is not the one that the revealed entropy gives its draw."""
    for draw, run in assembly.runs.items():
        if run.data.tags[f"{TAG}seal"] != seal(entropy.value, draw):
            raise InputError(
                f"run {run.info.run_id} (draw {draw}) was not made from the entropy this ensemble committed to"
            )


def check_registration(store: Store, ensemble: Ensemble, version: ModelVersion, votes: Votes) -> list[int]:
    """The draws that were registered with the version and have since disappeared. They stay in m, without a vote.

    InputError if a present draw is not the registered one: its votes and their hash were edited together, or it was
    made later.
    """
    name = f"{SMOOTHED} version {version.version}"
    hashes = read_json(store, ensemble.run_id, "ensemble/ensemble.json").get("votes_sha256")
    if not isinstance(hashes, list) or len(hashes) != ensemble.draws:
        raise InputError(f"the list of votes registered with {name} is damaged; restore the store")
    registered = {draw: value for draw, value in enumerate(hashes) if value is not None}
    if version.tags.get(f"{TAG}votes_root") != merkle_root(registered, ensemble.draws):
        raise InputError(
            f"the root of the votes registered with {name} does not fit its list of votes; one of them was edited"
        )
    for draw, row in sorted(votes.items()):
        if draw not in registered:
            raise InputError(f"draw {draw} was made after {name} was registered; it does not belong to it")
        if votes_hash(row) != registered[draw]:
            raise InputError(f"the votes of draw {draw} are not the ones registered with {name}")
    return sorted(registered.keys() - votes.keys())


def _draw_number(run: Run) -> int:
    claimed = run.data.tags.get(f"{TAG}draw", "")
    if not claimed.isdecimal():
        raise InputError(f"run {run.info.run_id} has the draw number {claimed!r}; it does not belong to the ensemble")
    return int(claimed)
