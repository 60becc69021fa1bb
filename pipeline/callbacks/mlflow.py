"""Tells MLflow of a run."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline import paths
from pipeline.callbacks.listener import register
from pipeline.callbacks.tracking import Tracker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.callbacks.tracking import Ending, Start

MAX_AT_ONCE = 100
"""Parameters, and figures, that MLflow takes in one request (its limits are 100 and 1000)."""
MAX_RETRIES = "3"
"""Times that a request is made anew, within some ten seconds."""
MAX_VALUE = 500
"""Characters of a parameter that every store of MLflow takes."""
_STATUS = {0: "FINISHED", 4: "FINISHED", 5: "FINISHED", 130: "KILLED", 143: "KILLED"}


@register("mlflow")
@dataclass(frozen=True)
class Mlflow(Tracker):
    """An MLflow run for every start, with parameters, figures, scores and the page."""

    tracking_uri: str | None = None
    """Server or store; MLflow's own choice, ``MLFLOW_TRACKING_URI``, if not given."""
    experiment: str | None = None
    """Which experiment it belongs to, made if there is none; the run's name if not given."""
    tags: dict[str, str] = field(default_factory=dict)
    """Further tags."""
    report: bool = True
    """Whether the page is kept as an artifact."""

    extra: ClassVar[str] = "mlflow"
    library: ClassVar[str] = "mlflow"

    def begin(self, start: Start) -> MlflowRun:
        """Begin an MLflow run."""
        # its usage statistics; read when it is imported, and the user's own word stands
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # its own patience is seven tries, which are minutes for a server that is not there
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", MAX_RETRIES)
        from mlflow.tracking import MlflowClient

        # the client, not the functions of the module: those share one active run per process
        client = MlflowClient(tracking_uri=self.tracking_uri)
        name = self.experiment or start.config.name
        present = client.get_experiment_by_name(name)
        number = client.create_experiment(name) if present is None else present.experiment_id
        made = client.create_run(
            number, run_name=start.config.name, tags={**start.tags, **self.tags}
        )
        backend = MlflowRun(client, made.info.run_id, has_report=self.report)
        backend.parameters(start.parameters)
        return backend


class MlflowRun:
    """A run of MLflow that is being written.

    Parameters
    ----------
    client
        How to reach the store.
    run_id
        The run.
    has_report
        Whether the page is kept as an artifact.
    """

    def __init__(self, client: Any, run_id: str, *, has_report: bool) -> None:
        self._client = client
        self._run_id = run_id
        self._has_report = has_report

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Keep what was asked for."""
        from mlflow.entities import Param

        params = [Param(key, str(value)[:MAX_VALUE]) for key, value in values.items()]
        for first in range(0, len(params), MAX_AT_ONCE):
            self._client.log_batch(self._run_id, params=params[first : first + MAX_AT_ONCE])

    def figures(self, pass_name: str, values: Mapping[str, float], step: int) -> None:
        """Keep figures of a pass after so many samples of it."""
        self._metrics({f"{pass_name}/{name}": value for name, value in values.items()}, step)

    def finish(self, ending: Ending) -> None:
        """Keep scores and the page, and say how the run ended."""
        self._metrics({**ending.scores, **ending.totals, "exit_code": ending.exit_code}, 0)
        if ending.message:
            self._client.set_tag(self._run_id, "xpipe.error", ending.message[:MAX_VALUE])
        folder = paths.Folder(ending.path)
        if self._has_report and folder.exists(paths.REPORT):
            with folder.local(paths.REPORT) as page:
                self._client.log_artifact(self._run_id, page)
        self._client.set_terminated(self._run_id, _STATUS.get(ending.exit_code, "FAILED"))

    def _metrics(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        found = [Metric(key, float(value), now, step) for key, value in values.items()]
        for first in range(0, len(found), MAX_AT_ONCE):
            self._client.log_batch(self._run_id, metrics=found[first : first + MAX_AT_ONCE])
