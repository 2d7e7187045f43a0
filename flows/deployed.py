"""The project's commands as flows, for deployments: each runs one command and ends as that ends.

Prefect makes a form of their parameters. What a stage of the pipeline makes goes through DVC, so that its lock file
stays true.
"""

from typing import Annotated

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from pydantic import Field

from flows.audit import audit
from flows.commands import run
from flows.environment import Engine
from flows.events import AUDIT_FAILED, tell
from flows.gate import CANDIDATE, CERTIFIED
from flows.log import logger
from flows.store import SMOOTHED, Store, aliases_of, all_versions, answering, connect
from sanitize.errors import InputError
from sanitize.fitting import Fit

Version = Annotated[int | None, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Sigma = Annotated[float, Field(gt=0)]


@flow(name="sanitize-images", persist_result=False)
def sanitize_images(
    input: str,  # noqa: A002
    output: str,
    denoiser: str | None,
    sigma: Sigma,
    fit: Fit = "exact",
    entropy: str = "os",
) -> None:
    """Sanitize an image set that is not the pipeline's: python -m sanitize.

    Args:
        input: A folder class/image, a .npz file (images, labels), or a published set by its name.
        output: Where the copy goes, in the same form.
        denoiser: A diffusers directory or hub id; none leaves the noise in.
        sigma: The noise level in [0,1] pixel units, .1 to 1.
        fit: What becomes of images of another size than the denoiser's.
        entropy: "os" for noise that nobody can foresee, fixed:HEX to make a copy again.
    """
    how = ("--denoiser", denoiser) if denoiser else ("--noise-only",)
    said = ("--input", input, "--output", output, "--sigma", str(sigma), "--fit", fit, "--entropy", entropy)
    run("python", "-m", "sanitize", *said, *how)


@flow(name="smooth-ensemble", persist_result=False)
def smooth_ensemble(engine: Engine = "processes") -> None:
    """Make or finish the ensemble that params.yaml asks for: dvc repro --pull smooth.

    Args:
        engine: This machine's processes, or a Ray cluster.
    """
    run("dvc", "repro", "--pull", "smooth", settings={"CLEANLABEL_ENGINE": engine})


@flow(name="certify-version", persist_result=False)
def certify_version(version: Version = None) -> None:
    """Certify a version and hold it against the gate.

    Args:
        version: Of smoothed-classifier. Left out: the pipeline's own, by dvc repro certify.
    """
    if version is None:
        run("dvc", "repro", "--pull", "certify")
    else:
        run("python", "-m", "flows.certify", "--version", str(version))


@flow(name="audit-version", persist_result=False)
def audit_version(version: Version = None, replay: Count = 3) -> None:
    """Compute a version's certificate again from its runs; any check that fails fails the flow.

    Args:
        version: Of smoothed-classifier. Left out: the one with the alias certified, else candidate, else the newest.
        replay: How many draws, chosen at random, to train again and compare.
    """
    log = logger()
    with answering():
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
    """The version people rely on: the certified one, else the candidate, else the newest. InputError without any."""
    aliases, versions = aliases_of(store, SMOOTHED), all_versions(store, SMOOTHED)
    if not versions:
        raise InputError(f"{SMOOTHED} has no version yet; run `dvc repro`")
    return aliases.get(CERTIFIED) or aliases.get(CANDIDATE) or int(versions[-1].version)


@flow(name="notify", persist_result=False)
def notify(event: str, sentence: str, block: str | None = None) -> None:
    """Say what happened: on Prefect's page (artifact `attention`), and through a notification block if one is named.

    Args:
        event: What happened, by its event's name.
        sentence: The same for people.
        block: A notification block of this Prefect server, type/name: slack-webhook/team.
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
        raise InputError(f"block {block!r} notifies nobody; name a notification block, like slack-webhook/team")
    channel.notify(sentence, subject=event)
