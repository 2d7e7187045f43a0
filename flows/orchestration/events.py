"""Events about a version for Prefect, whose automations can send notifications or start flows."""

from prefect.events import emit_event
from prefect.settings import get_current_settings

from cleanlabel.flows.store.registry import SMOOTHED

GATE_FAILED = "cleanlabel.gate.failed"
AWAITING_REVIEW = "cleanlabel.version.awaiting-review"
CERTIFIED = "cleanlabel.version.certified"
AUDIT_FAILED = "cleanlabel.audit.failed"


def tell(event: str, version: int, sentence: str) -> None:
    """Emit an event about a version if a Prefect server is set. `sentence` is the text for people."""
    if not get_current_settings().api.url:
        return
    emit_event(
        event=event,
        resource={
            "prefect.resource.id": f"cleanlabel.version.{SMOOTHED}.{version}",
            "prefect.resource.name": f"{SMOOTHED} version {version}",
        },
        payload={"sentence": sentence, "version": version},
    )
