"""The public part of a bounded-influence head in a drill, made from trusted images and kept on disk."""

from pathlib import Path

from cleanlabel.models.instrument import Instrument, cosine, load_instrument, save_instrument
from cleanlabel.models.public_part import fitted, instrument_inputs, trusted_features
from cleanlabel.redteam.drill.copies import BATCH
from cleanlabel.redteam.threat.victims import Victim, required_extractor
from cleanlabel.sanitize.denoiser import Denoiser
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.fast import accelerate
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.keys import code_digest, key_of


def require_trusted(victim: Victim, trusted: ImageSet | None) -> None:
    """InputError where the head's form is fitted to trusted images and there are none."""
    if victim.summed and victim.recipe.influence_form == "instrumental" and (trusted is None or len(trusted) < 2):
        raise InputError(
            f"recipe.influence_form='instrumental' is fitted to at least 2 trusted images, and this drill has "
            f"{len(trusted) if trusted else 0}; give data/trusted.npz, hold some out with --held-out, or take "
            "--recipe influence_form=cosine, which needs none"
        )


def kept_instrument(
    victim: Victim, trusted: ImageSet | None, sigma: float, denoiser: Denoiser | None, root: Path
) -> Instrument:
    """The victim's instrument at this sigma, from trusted images and public noise only; made once, kept in `root`."""
    recipe, extractor = victim.recipe, required_extractor(victim)
    require_trusted(victim, trusted)
    if recipe.influence_form == "cosine" or trusted is None:
        return cosine(recipe.influence_sides)
    code = code_digest("cleanlabel.redteam.drill.instruments")
    inputs = instrument_inputs(recipe, trusted, sigma, denoiser.digest if denoiser else None, extractor.digest, code)
    folder = root / key_of(inputs)
    for path in folder.glob("*.safetensors"):
        return load_instrument(path, path.stem)
    fast = accelerate(denoiser, sigma, BATCH, len(trusted) * recipe.influence_copies) if sigma and denoiser else None
    psi, phi = trusted_features(
        extractor,
        trusted,
        sigma,
        denoiser,
        recipe.influence_copies,
        denoise=fast,
        batch=BATCH,
        device=victim.device,
    )
    made = fitted(recipe, psi, phi)
    folder.mkdir(parents=True, exist_ok=True)
    save_instrument(made, folder / f"{made.digest}.safetensors")
    return made
