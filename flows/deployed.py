"""The project's commands as flows for deployments. Each flow runs one command and ends in the same way.

Prefect shows their parameters as a form. Stages of the pipeline run through DVC, so that its lock file stays true.
"""

from typing import Annotated, Literal

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from pydantic import Field

from cleanlabel.flows.certificate.checks import audit
from cleanlabel.flows.certificate.reviews import CANDIDATE, CERTIFIED
from cleanlabel.flows.environment import Engine
from cleanlabel.flows.orchestration.commands import end_with_worker, run
from cleanlabel.flows.orchestration.events import AUDIT_FAILED, tell
from cleanlabel.flows.orchestration.log import logger
from cleanlabel.flows.store.client import Store, connect
from cleanlabel.flows.store.errors import translate_store_errors
from cleanlabel.flows.store.registry import SMOOTHED, aliases_of, all_versions
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.fitting import Fit
from cleanlabel.sanitize.params import Noise, Sigma

Version = Annotated[int | None, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Some = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Sigmas = Annotated[list[Sigma], Field(min_length=1)]
# The full name is needed: Prefect puts this file's folder first on the path, where `redteam` would be the flow.
Attack = Literal["bullseye", "convex", "frogs", "hidden-trigger", "label-consistent", "sleeper-agent", "witches-brew"]
Scenario = Literal["transfer", "fine-tune", "scratch"]
Published = Literal["pipeline", "cifar10", "cifar100", "fashion-mnist", "mnist", "svhn"]


@flow(name="sanitize-images", persist_result=False)
def sanitize_images(
    input: str,  # noqa: A002
    output: str,
    denoiser: str | None,
    sigma: Noise,
    fit: Fit = "exact",
    entropy: str = "os",
) -> None:
    """Sanitize an image set that is not the pipeline's: python -m sanitize.

    Args:
        input: A folder class/image, a .npz file (images, labels), or a published set by its name.
        output: Where the copy goes, in the same form.
        denoiser: A diffusers directory or hub id. Left out: the noise stays in.
        sigma: The noise level in [0,1] pixel units, .1 to 1.
        fit: What to do with images of another size than the denoiser's.
        entropy: The source of the noise: "os" for unpredictable noise, fixed:HEX to repeat a copy.
    """
    how = ("--denoiser", denoiser) if denoiser else ("--noise-only",)
    said = ("--input", input, "--output", output, "--sigma", str(sigma), "--fit", fit, "--entropy", entropy)
    run("python", "-m", "sanitize", *said, *how)


@flow(name="smooth-ensemble", persist_result=False)
def smooth_ensemble(engine: Engine = "processes") -> None:
    """Make or finish the ensemble that params.yaml describes: dvc repro --pull smooth.

    Args:
        engine: This machine's processes, or a Ray cluster.
    """
    run("dvc", "repro", "--pull", "smooth", settings={"CLEANLABEL_ENGINE": engine})


@flow(name="certify-version", persist_result=False)
def certify_version(version: Version = None) -> None:
    """Certify a version and check it against the gate.

    Args:
        version: The version of smoothed-classifier. Left out: the pipeline's own, by dvc repro certify.
    """
    if version is None:
        run("dvc", "repro", "--pull", "certify")
    else:
        run("python", "-m", "flows.certify", "--version", str(version))


@flow(name="audit-version", persist_result=False)
def audit_version(version: Version = None, replay: Count = 3) -> None:
    """Compute a version's certificate again from its runs. The flow fails if any check fails.

    Args:
        version: The version of smoothed-classifier. Left out: the one with the alias certified, else candidate,
            else the newest.
        replay: The number of draws, chosen at random, to train again and compare.
    """
    end_with_worker()
    log = logger()
    with translate_store_errors():
        store = connect()
        number = version or relied_on(store)
        checks = []
        for check in audit(store, number, replay):
            checks.append(check)
            log.info("%s  %s: %s", "ok  " if check.passed else "FAIL", check.name, check.found)
    rows = [{"check": c.name, "result": "ok" if c.passed else "FAIL", "found": c.found} for c in checks]
    create_table_artifact(rows, key="audit", description=f"{SMOOTHED} version {number}")
    failed = [f"{check.name}: {check.found}" for check in checks if not check.passed]
    if failed:
        sentence = f"{SMOOTHED} version {number} fails its audit: {'; '.join(failed)}"
        tell(AUDIT_FAILED, number, sentence)
        raise InputError(sentence)


def relied_on(store: Store) -> int:
    """The version in use: the certified one, else the candidate, else the newest. InputError if there is none."""
    aliases, versions = aliases_of(store, SMOOTHED), all_versions(store, SMOOTHED)
    if not versions:
        raise InputError(f"{SMOOTHED} has no version yet; run `dvc repro`")
    return aliases.get(CERTIFIED) or aliases.get(CANDIDATE) or int(versions[-1].version)


@flow(name="red-team-drill", persist_result=False)
def red_team_drill(
    attack: Attack | None = None,
    scenario: Scenario | None = None,
    targets: Some = 10,
    sigma: Sigmas = [0.0, 0.1, 0.25, 0.5, 1.0],  # noqa: B006
    poisons: Some | None = None,
    epsilon_255: Positive = 16.0,
    adaptive: bool = False,  # noqa: FBT001, FBT002
    data: Published = "pipeline",
    images: Count = 0,
    settings: list[str] = [],  # noqa: B006
    recipe: list[str] = [],  # noqa: B006
    seed: Count = 0,
) -> None:
    """Attack a victim, undefended and sanitized: python -m flows.attack.

    Args:
        attack: The attack's name. Left out: the drill of redteam/params.yaml, by dvc repro redteam/dvc.yaml, which
            ignores the other parameters.
        scenario: What the victim trains: a new head, the extractor too, or all from scratch. Left out: the attack's
            own.
        targets: The number of test images to attack, or of pairs of classes for backdoors.
        sigma: Noise levels of the sanitizer in [0,1] pixel units; 0 is undefended.
        poisons: The number of images that the attacker may change. Left out: one in a hundred.
        epsilon_255: l_infinity bound of each change, in 255ths; 8x8 digits need about 96.
        adaptive: Whether the attacker crafts poisons through the sanitizer, separately for each sigma.
        data: The pipeline's sets, or a published one under data/incoming.
        images: For a published set: the number of images in the raw set.
        settings: The attack's settings that differ from the published ones, each KEY=VALUE.
        recipe: The params of the victim's training that differ from params.yaml, each KEY=VALUE.
        seed: The seed of targets, crafting and training.
    """
    if attack is None:
        run("dvc", "repro", "--pull", "redteam/dvc.yaml")
        return
    command = ["python", "-m", "flows.attack", "--attack", attack, "--targets", str(targets), "--data", data]
    command += ["--sigma", *map(str, sigma), "--epsilon", str(epsilon_255), "--images", str(images)]
    command += ["--seed", str(seed)]
    command += ["--scenario", scenario] if scenario else []
    command += ["--poisons", str(poisons)] if poisons else []
    command += ["--adaptive"] if adaptive else []
    command += [part for pair in settings for part in ("--set", pair)]
    command += [part for pair in recipe for part in ("--recipe", pair)]
    run(*command)


@flow(name="notify", persist_result=False)
def notify(event: str, sentence: str, block: str | None = None) -> None:
    """Report an event on Prefect's page (artifact `attention`), and through a notification block if one is named.

    Args:
        event: The name of the event that happened.
        sentence: What happened, in words.
        block: A notification block of this Prefect server, as type/name, for example slack-webhook/team.
    """
    logger().warning("%s: %s", event, sentence)
    create_markdown_artifact(f"**{event}**\n\n{sentence}", key="attention", description=sentence)
    if block is None:
        return
    try:
        channel = Block.load(block)
    except ValueError as error:
        raise InputError(f"Prefect has no block {block!r}; make it on the page Blocks, or correct the name") from error
    if not isinstance(channel, NotificationBlock):
        raise InputError(f"block {block!r} is not a notification block; name one, for example slack-webhook/team")
    channel.notify(sentence, subject=event)
