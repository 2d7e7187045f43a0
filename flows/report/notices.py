"""What a reviewer might overlook about a certificate."""

import numpy as np

from cleanlabel.flows.certificate.partitions import partitions_of
from cleanlabel.flows.certificate.record import Certified
from cleanlabel.flows.certificate.wording import attempt_notices
from cleanlabel.models.certificate import ABSTAIN
from cleanlabel.models.plan import parts_of
from cleanlabel.sanitize.door import notices as door_notices
from cleanlabel.sanitize.imageset import ImageSet


def notices(certified: Certified, test: ImageSet) -> list[str]:
    """Notes on this certificate that a reviewer might overlook."""
    c = certified.certificate
    found = []
    if c["entropy_source"] != "os":
        found.append("The noise was known beforehand: an attacker could have prepared for it. For tests only.")
    found += door_notices(parts_of(c))
    found += attempt_notices(c)
    if c["missing_draws"]:
        models = "draws (each has one model per block)" if partitions_of(c) else "models"
        found.append(f"{len(c['missing_draws'])} of {c['m']} {models} are missing. They count against every answer.")
    wrong = int(np.sum((certified.label != test.labels) & (certified.label != ABSTAIN)))
    if wrong:
        found.append(
            f"{wrong} of {c['n_test']} answers are certified and wrong: no change within their radius corrects them. "
            "They are shown below."
        )
    return found
