"""Lost runs: the server ends runs of this project's deployments whose process is gone, so that they hold no limit.

A process that is killed with SIGKILL, or stops with its machine, cannot report its end: its run would stay Running, and
a pool of one run at a time would start no other. Deployed runs therefore send a heartbeat every half minute
(PREFECT_FLOWS_HEARTBEAT_FREQUENCY in prefect.yaml), and two automations of Prefect's server watch them, wherever their
workers are. If server and workers are on this machine, lost runs are found as soon as both start again.
"""

from datetime import timedelta

import psutil
from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.states import Crashed

from cleanlabel.flows.orchestration.commands import FLOW_RUN

TAGS = "prefect.tag.cleanlabel*"
"""The tag of the deployments of prefect.yaml. Runs of other projects on the same server are not touched."""
SILENT = timedelta(minutes=5)
"""Ten heartbeats: a run that has sent none for this long is gone. A restart of the server takes less time."""
NEVER_BEGUN = timedelta(minutes=10)
"""A run that a worker took but did not begin within this time has lost its worker."""
HEARTBEAT = "prefect.flow-run.heartbeat"
BEGUN = frozenset(f"prefect.flow-run.{name}" for name in ("Running", "Scheduled", "AwaitingConcurrencySlot"))
ENDED = frozenset(f"prefect.flow-run.{name}" for name in ("Completed", "Failed", "Crashed", "Cancelled"))
GONE = "its process was killed, or its machine went down; the next run continues where this one stopped"


def end_lost_runs(silent: timedelta = SILENT, never_begun: timedelta = NEVER_BEGUN) -> None:
    """Create both automations on the server that PREFECT_API_URL names, or update them there."""
    _put(
        "cleanlabel: end runs whose heartbeat stopped",
        {HEARTBEAT},
        {HEARTBEAT, *ENDED},
        silent,
        f"no heartbeat for {silent.total_seconds():.0f} s: {GONE}",
    )
    _put(
        "cleanlabel: end runs that never began",
        {"prefect.flow-run.Pending", "prefect.flow-run.Submitting"},
        {*BEGUN, *ENDED},
        never_begun,
        f"not begun {never_begun.total_seconds():.0f} s after a worker took it: {GONE}",
    )


def end_runs_without_process(pool: str) -> list[str]:
    """End a pool's active runs that have no process on this machine. Returns the names of the ended runs.

    Call it only for a pool whose workers are all on this machine, before they start.
    """
    at_work = FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING, StateType.CANCELLING])
    ended = []
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=at_work)),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
        ):
            if not _has_process(run):
                client.set_flow_run_state(run.id, Crashed(message=GONE), force=True)
                ended.append(run.name)
    return ended


def _has_process(run: FlowRun) -> bool:
    """Whether the process of a run exists on this machine. The PID alone is not enough: it may have been reused."""
    try:
        return psutil.Process(int(run.infrastructure_pid or "")).environ().get(FLOW_RUN) == str(run.id)
    except (psutil.Error, ValueError):
        return False


def _put(name: str, after: set[str], expect: set[str], within: timedelta, sentence: str) -> None:
    """Put an automation that crashes each of our runs that sends no `expect` event `within` this time of an `after`."""
    automation = Automation(
        name=name,
        trigger=EventTrigger(
            after=after,
            expect=expect,
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=ResourceSpecification({"prefect.resource.id": [TAGS], "prefect.resource.role": ["tag"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=within,
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=sentence)],
    )
    try:
        automation.id = Automation.read(name=name).id
    except ValueError:
        automation.create()
    else:
        automation.update()
