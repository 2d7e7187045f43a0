"""Stage `sanitize`: one sanitized reference copy of the raw set, for ordinary training.

python -m sanitize.reference
"""

from sanitize import errors
from sanitize.copies import write_copy
from sanitize.denoiser import load_denoiser
from sanitize.imageset import load
from sanitize.noise import draw_entropy
from sanitize.params import SanitizeParams, read_params
from sanitize.paths import DENOISER, SANITIZED, SETS


def main() -> None:
    params = read_params("sanitize", SanitizeParams)
    denoiser = load_denoiser(DENOISER) if params.denoise else None
    raw = load(SETS["raw"])
    entropy = draw_entropy(params.entropy)  # after the raw set is fixed
    made = write_copy(raw, SANITIZED, params.sigma, denoiser, entropy, draw=0, progress=True)
    print(f"{SANITIZED}: {len(raw)} images, sigma {params.sigma:g}, PSNR {made['psnr_db']} dB to the raw set")


if __name__ == "__main__":
    errors.run(main)
