"""Stage `sanitize`: one sanitized reference copy of the raw set, for ordinary training.

python -m sanitize.reference
"""

from cleanlabel.sanitize import errors
from cleanlabel.sanitize.copies import make_copy
from cleanlabel.sanitize.denoiser import load_denoiser
from cleanlabel.sanitize.door import STATED_BY, admit
from cleanlabel.sanitize.params import SanitizeParams, read_params
from cleanlabel.sanitize.parts import parts_of_denoiser
from cleanlabel.sanitize.paths import DENOISER, SANITIZED, SETS
from cleanlabel.sanitize.sources import open_source


def main() -> None:
    params = read_params("sanitize", SanitizeParams)
    denoiser = load_denoiser(DENOISER) if params.denoise and params.sigma else None
    if not params.sigma:
        errors.warn(
            "sanitize.sigma=0: this copy is the raw set itself, and an ordinary model trained on it is not defended; "
            "only the ensemble's certificates hold"
        )
    raw = open_source(SETS["raw"])
    admitted = admit(raw, parts_of_denoiser(DENOISER, asks=STATED_BY, stated=True)) if denoiser else ()
    made = make_copy(
        raw,
        SANITIZED,
        params.sigma,
        denoiser,
        params.entropy,
        draw=0,
        admitted=admitted,
        progress=True,
        say=print,
        warn=errors.warn,
    )
    if made:
        print(f"{SANITIZED}: {len(raw)} images, sigma {params.sigma:g}, PSNR {made['psnr_db']} dB to the raw set")


if __name__ == "__main__":
    errors.run(main)
