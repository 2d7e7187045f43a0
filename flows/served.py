"""The loader that older versions name in their `MLmodel`; newer ones name `cleanlabel.served`. Works in a checkout."""

from cleanlabel.served import Refused, ServedClassifier, _load_pyfunc

__all__ = ["Refused", "ServedClassifier", "_load_pyfunc"]
