"""The one door: each param, flag or argument that names a file or a data set is admitted, or said to bring nothing in.

The lists here are held to the code: a param, flag or argument that is new fails a test until it has its place in one of
them, and one that brings something in has a trial below, which brings something made from raw images and is refused.
"""

import ast
import inspect
import shutil
import sys
import typing
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from imports import ROOMS, ROOT, modules
from registered import make_sets, set_params
from tiny import save_int8_facts

import cleanlabel
from cleanlabel.__main__ import main as command
from cleanlabel.flows import attack
from cleanlabel.flows.ensemble.planning import make_plan
from cleanlabel.models import params as models_params
from cleanlabel.models.classifiers import Architecture, build
from cleanlabel.models.extractors import load_extractor
from cleanlabel.models.params import TrainParams
from cleanlabel.models.twins import save_twin
from cleanlabel.models.weights import TrainedOn, save_weights, trained_on
from cleanlabel.redteam import compare
from cleanlabel.redteam.__main__ import params_from, parser
from cleanlabel.redteam.drill import params as drill_params
from cleanlabel.redteam.drill.prepare import prepared
from cleanlabel.sanitize import params as sanitize_params
from cleanlabel.sanitize.denoiser import load_denoiser
from cleanlabel.sanitize.denoiser_files import IMAGES, INT8, INT8_IMAGES, PROVENANCE, digest_of, read_config
from cleanlabel.sanitize.door import KINDS, in_words
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import file_digest, write_json
from cleanlabel.sanitize.imageset import load, save_npz
from cleanlabel.sanitize.ingest import digits
from cleanlabel.sanitize.overlap import record_of, to_bytes
from cleanlabel.sanitize.params import Section
from cleanlabel.sanitize.parts import parts_of_denoiser
from cleanlabel.sanitize.paths import DENOISER, SETS
from cleanlabel.sanitize.pretrain import main as denoiser_stage

sys.path.insert(0, str(ROOT / "docs"))
import generate
from filled import filled

WEIGHTS, TWIN, SEEN = Path("data/pretrained/w.safetensors"), Path("data/pretrained/t.safetensors"), Path("seen")

SAW = r"\d+ of \d+ raw images are among those that"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, denoiser_dir: Path) -> Path:
    """Sets under data/, and three parts that were made from raw images: a denoiser, weights, and a twin of these."""
    monkeypatch.chdir(tmp_path)
    make_sets()
    save_npz(digits(600, 150, 0)["trusted"], SETS["trusted"])
    raw = load(SETS["raw"])
    shutil.copytree(denoiser_dir, SEEN)
    (SEEN / IMAGES).write_bytes(to_bytes(record_of(raw.images, raw.ids)))
    WEIGHTS.parent.mkdir(parents=True)
    architecture = Architecture("mlp", (8, 8, 1), 10, 8)
    save_weights(build(architecture), WEIGHTS, architecture, trained_on(raw))
    set_params(denoiser={"channels": [8], "steps": 2, "batch": 8}, sanitize={"denoise": False, "sigma": 0.5})
    return tmp_path


def clean_weights() -> Path:
    """Weights that saw nothing."""
    path, architecture = Path("data/pretrained/clean.safetensors"), Architecture("mlp", (8, 8, 1), 10, 8)
    if not path.is_file():
        save_weights(build(architecture), path, architecture)
    return path


def plan_with_denoiser() -> None:
    set_params(
        denoiser={"source": str(SEEN), "provenance": "disjoint", "origin": "a friend's"}, sanitize={"denoise": True}
    )
    denoiser_stage()
    make_plan()


def plan_with_scales() -> None:
    set_params(sanitize={"denoise": True, "sigma": 0.5})
    denoiser_stage()
    save_int8_facts(DENOISER, 0.5, load(SETS["raw"]).take(np.arange(20)))
    make_plan_again()


def make_plan_again() -> None:
    """Plan with the denoiser as it lies there now."""
    known = read_config(DENOISER / PROVENANCE)
    int8 = load_denoiser(DENOISER).int8
    assert int8 is not None
    write_json(DENOISER / PROVENANCE, known | {"digest": digest_of(DENOISER), "int8": int8.as_dict()})
    make_plan()


def plan_with_weights() -> None:
    stated = {"initial_weights": str(WEIGHTS), "initial_provenance": "disjoint", "initial_origin": "a friend's"}
    set_params(train={"mode": "transfer", "head": "lda"} | stated)
    make_plan()


def save_seen_twin() -> None:
    extractor, raw = load_extractor(clean_weights()), load(SETS["raw"])
    saw = TrainedOn(raw.digest, record_of(raw.images, raw.ids))
    save_twin(extractor.network, TWIN, extractor.digest, 0.5, None, saw)


def plan_with_twin() -> None:
    save_seen_twin()
    stated = {"initial_provenance": "disjoint", "initial_origin": "a friend's"}
    recipe = {"mode": "transfer", "head": "lda", "initial_weights": str(clean_weights()), "twin": str(TWIN)}
    set_params(train=recipe | stated)
    make_plan()


def plan_with_trusted() -> None:
    save_npz(load(SETS["raw"]).take(np.arange(30)), SETS["trusted"])
    stated = {"initial_weights": str(clean_weights()), "initial_provenance": "disjoint", "initial_origin": "a friend's"}
    set_params(train={"mode": "transfer", "head": "bounded-influence"} | stated)
    make_plan()


def plan_with_settings() -> None:
    set_params(smooth={"chosen_on": "raw"})
    raise InputError(f"150 of 150 raw images are among those that: {make_plan().voids}")


def sanitize_with_denoiser() -> None:
    command(["sanitize", "--input", "data/raw.npz", "--output", "out.npz", "--denoiser", str(SEEN), "--sigma", "0.5"])


def drill(*words: str) -> None:
    prepared(params_from(parser().parse_args(["--attack", "bullseye", "--targets", "1", "--poisons", "2", *words])))


TRIALS: dict[str, Callable[[], object]] = {
    "denoiser": plan_with_denoiser,
    "int8 scales": plan_with_scales,
    "initial weights": plan_with_weights,
    "twin": plan_with_twin,
    "trusted images": plan_with_trusted,
    "settings": plan_with_settings,
    "--denoiser of cleanlabel sanitize": sanitize_with_denoiser,
    "--denoiser of a drill": lambda: drill("--denoiser", str(SEEN), "--sigma", "0.5"),
    "--extractor of a drill": lambda: drill("--extractor", str(WEIGHTS), "--sigma", "0"),
    "denoiser of SanitizedCopies": lambda: cleanlabel.SanitizedCopies(load(SETS["raw"]), SEEN, 0.5, 2),
    "loaded denoiser of SanitizedCopies": lambda: cleanlabel.SanitizedCopies(
        load(SETS["raw"]), cleanlabel.load_denoiser(SEEN), 0.5, 2
    ),
    "denoiser of sanitize_images": lambda: cleanlabel.sanitize_images(load(SETS["raw"]), SEEN, 0.5),
}
"""For each way in, something that was made from raw images, which must be refused (settings: void the plan)."""

PARAMS = {
    "DenoiserParams.source": "denoiser",
    "DenoiserParams.revision": "denoiser",
    "DenoiserParams.origin": "denoiser",
    "TrainParams.initial_weights": "initial weights",
    "TrainParams.initial_origin": "initial weights",
    "TrainParams.twin": "twin",
    "TrainParams.twin_origin": "twin",
    "DrillParams.denoiser": "--denoiser of a drill",
    "DrillParams.extractor": "--extractor of a drill",
    "DrillParams.recipe": "twin",
}
"""Params that name a file or a data set which can reach training or prediction, with the trial that brings it in."""
NOTHING = {
    "SanitizeParams.entropy": "a source of noise, not of images; fixed noise does not pass the gate",
    "DrillParams.attack": "a name",
    "DrillParams.settings": "numbers of the attack",
    "DrillParams.data": "the raw and test set themselves",
    "DrillParams.root": "the raw and test set themselves",
    "DrillParams.setups": "the raw and test set themselves, and the targets",
    "DrillParams.known": "the attacker's networks, not the victim's",
    "DrillParams.entropy": "a source of noise",
}
"""Params of text that bring nothing from elsewhere into training or prediction."""
FLAGS = {"--denoiser": "--denoiser of a drill", "--extractor": "--extractor of a drill", "--revision": "denoiser"}
NO_FLAGS = {
    "--input": "the raw set itself",
    "--root": "the raw set itself",
    "--data": "the raw set itself",
    "--setups": "the raw set itself",
    "--split": "the raw set itself",
    "--output": "what is written",
    "--origin": "words",
    "--device": "a machine's",
    "--entropy": "a source of noise",
    "--shard": "which part is made",
    "--known": "the attacker's networks, not the victim's",
    "--set": "numbers of an attack",
    "--with": "names and numbers of defences",
    "--recipe": "the recipe, whose files are params",
    "--attack": "a name",
    "--defences": "names",
    "--engine": "a machine's",
    "--reason": "words",
    "--by": "words",
    "--truth": "labels of test images, for figures",
    "--selection": "votes",
    "votes": "votes",
    "--version": "a registered version",
    "--certificate": "what is checked",
    "--signers": "what is checked",
    "uri": "what is checked",
}
ARGUMENTS = {"denoiser": "denoiser of SanitizedCopies"}
NO_ARGUMENTS = {
    "data": "the raw set itself",
    "source": "load_denoiser's own: what it loads is admitted where it is used",
    "revision": "load_denoiser's own",
    "device": "a machine's",
    "entropy": "a source of noise",
    "fit": "a way",
    "origin": "words",
    "provenance": "a statement",
    "method": "a rule",
    "votes": "votes",
    "selection": "votes",
    "sums": "sums",
    "sides": "a rule",
    "entropy_source": "a word",
    "radius": "numbers",
}


@pytest.mark.parametrize("way", TRIALS)
def test_what_was_made_from_raw_images_does_not_get_in(project, way):
    with pytest.raises(InputError, match=SAW):
        TRIALS[way]()
    assert not Path("out.npz").exists()


def test_every_kind_of_part_has_a_trial():
    assert KINDS.keys() <= TRIALS.keys()


def texts_of(section: type[Section]) -> Iterator[str]:
    """The fields of a section that hold free text, somewhere."""
    for name, hint in typing.get_type_hints(section).items():
        if name in section.model_fields and _has_text(hint):
            yield f"{section.__name__}.{name}"


def _has_text(hint: object) -> bool:
    if typing.get_origin(hint) is typing.Literal:
        return False
    return hint in (str, Path) or any(_has_text(part) for part in typing.get_args(hint))


def test_every_param_that_could_name_a_file_has_its_place():
    own = {
        one
        for module in (sanitize_params, models_params, drill_params)
        for one in vars(module).values()
        if inspect.isclass(one) and issubclass(one, Section) and one is not Section
    }
    found = {name for section in own for name in texts_of(section)}
    assert found == PARAMS.keys() | NOTHING.keys()
    assert set(PARAMS.values()) <= TRIALS.keys()


def test_every_flag_that_could_name_a_file_has_its_place():
    found = set()
    for _, flags in generate.parsers():
        for action in generate_actions(flags):
            if action.type in (None, str, Path) and action.nargs != 0 and not action.choices:
                found |= {action.option_strings[-1] if action.option_strings else action.dest}
    assert found <= FLAGS.keys() | NO_FLAGS.keys()
    assert FLAGS.keys() <= found
    assert set(FLAGS.values()) <= TRIALS.keys()


def generate_actions(flags: generate.Flags) -> Iterator[typing.Any]:
    """Every flag of a command and of its actions."""
    for action in flags._actions:
        if hasattr(action, "choices") and isinstance(action.choices, dict):
            for inner in action.choices.values():
                yield from generate_actions(inner)
        else:
            yield action


def test_every_argument_of_the_api_that_could_name_a_file_has_its_place():
    found = set()
    for name in filled(cleanlabel.__all__):
        one = getattr(cleanlabel, name)
        if callable(one) and one is not InputError and not is_dataclass(one):  # those are results
            for argument in inspect.signature(one).parameters.values():
                words = str(argument.annotation)
                if any(part in words for part in ("str", "Path", "Denoiser", "Data", "Any", "NDArray", "Literal")):
                    found.add(argument.name)
    assert found <= ARGUMENTS.keys() | NO_ARGUMENTS.keys()
    assert ARGUMENTS.keys() <= found


OPENERS = {
    "load_denoiser",
    "load_extractor",
    "load_twin",
    "read_weights",
    "load_weights",
    "start_of",
    "load_instrument",
}
OPEN = {
    "cleanlabel/api.py": "SanitizedCopies admits it",
    "sanitize/__main__.py": "admits it against the input",
    "sanitize/preview.py": "makes a picture; nothing is trained on it",
    "sanitize/pretrain.py": "makes it; planning admits it",
    "sanitize/reference.py": "admits it",
    "models/extractors.py": "reads the weights that are admitted",
    "models/start.py": "reads what planning admitted, whose digests the worker compares",
    "models/smoothed.py": "reads a registered version, whose digests its seal holds",
    "redteam/drill/inputs.py": "admits them",
    "redteam/drill/instruments.py": "made from trusted images that the drill admits",
    "flows/choose.py": "admits them",
    "flows/certify.py": "the contact sheet of what the plan names",
    "flows/distil.py": "makes a twin, which carries its record; planning admits it, its extractor and its denoiser",
    "flows/estimate.py": "times them; nothing is kept",
    "flows/train.py": "admits them",
    "flows/ensemble/instrument.py": "what planning admitted",
    "flows/ensemble/package.py": "what the plan names",
    "flows/ensemble/planning.py": "admits them",
    "flows/ensemble/worker.py": "compares their digests with the plan's",
}
"""The modules that open a file from elsewhere, and where it is admitted."""


def test_nothing_else_opens_such_a_file():
    found = set()
    own = {path for room in ROOMS if room != "benchmarks" for path in modules(room).values()}
    for path in sorted(own | {*(ROOT / "cleanlabel").glob("*.py")}):
        calls = (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
        names = {func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "") for func in calls}
        if names & OPENERS:
            found.add(str(path.relative_to(ROOT)))
    assert found == OPEN.keys()


def test_a_statement_lets_a_trusted_earlier_copy_in_and_stands_in_certificate_and_manifest(project, capsys):
    raw = load(SETS["raw"])
    copies = cleanlabel.SanitizedCopies(raw, SEEN, 0.5, 14, provenance="fixed-before", origin="the published digits")
    found = copies.certify([raw.labels[:3]] * 14)
    assert found.admitted == copies.admitted
    assert (found.admitted[0]["state"], found.admitted[0]["shared"]) == ("fixed-before", 150)
    assert in_words(found.admitted[0]) in found.summary()
    assert "of 150 raw images 150 match one of the 150 recorded images" in found.summary()
    void = cleanlabel.SanitizedCopies(raw, SEEN, 0.5, 14, provenance="on-raw", origin="ours")
    with pytest.raises(InputError, match="the denoiser was trained on the raw set as supplied, as provenance='on-raw'"):
        void.certify([raw.labels[:3]] * 14)
    words = ["--input", "data/raw.npz", "--output", "out.npz", "--denoiser", str(SEEN), "--sigma", "0.5"]
    command(["sanitize", *words, "--provenance", "fixed-before", "--origin", "the published digits"])
    assert "no attack reaches it, but accuracy is flattered; from: the published digits" in capsys.readouterr().out
    assert '"origin": "the published digits"' in Path("out.manifest.json").read_text()


def test_a_denoiser_of_which_nothing_is_known_is_shown_as_that(project, denoiser_dir):
    copies = cleanlabel.SanitizedCopies(load(SETS["raw"]), denoiser_dir, 0.5, 14)
    assert "nobody stated what it was trained on" in copies.certify([np.zeros(3, int)] * 14).summary()
    made_by_hand = replace(load_denoiser(denoiser_dir), directory=None)
    assert cleanlabel.SanitizedCopies(load(SETS["raw"]), made_by_hand, 0.5, 2).admitted[0]["state"] is None


def test_a_denoiser_whose_files_are_gone_is_not_taken_without_its_record(project):
    loaded = cleanlabel.load_denoiser(SEEN)
    shutil.rmtree(SEEN)
    with pytest.raises(InputError, match="from which the denoiser was loaded, is gone, and with it the record"):
        cleanlabel.SanitizedCopies(load(SETS["raw"]), loaded, 0.5, 2)


def test_the_flow_of_drills_prepares_them_by_the_same_door():
    assert attack.prepared is prepared
    assert compare.prepared is prepared
    assert "twin" in TrainParams.model_fields


def test_an_empty_record_is_no_record(project):
    set_params(sanitize={"denoise": True})
    denoiser_stage()
    nothing = load(SETS["trusted"]).take(np.arange(0))
    empty = to_bytes(record_of(nothing.images, nothing.ids))
    (DENOISER / IMAGES).write_bytes(empty)
    known = read_config(DENOISER / PROVENANCE)
    write_json(DENOISER / PROVENANCE, known | {"images": file_digest(DENOISER / IMAGES)})
    with pytest.raises(InputError, match=r"comes from elsewhere and denoiser\.origin is null: state"):
        make_plan()
    save_int8_facts(SEEN, 0.5, load(SETS["trusted"]))
    (SEEN / INT8 / INT8_IMAGES).write_bytes(empty)
    with pytest.raises(InputError, match="records 0 images, and the int8 network's scales were set on 600; restore"):
        parts_of_denoiser(SEEN)
