"""The loader that earlier versions name in their `MLmodel`; it is `cleanlabel.served` now. They load in a checkout."""

from cleanlabel.served import Refused, ServedClassifier, _load_pyfunc

__all__ = ["Refused", "ServedClassifier", "_load_pyfunc"]
