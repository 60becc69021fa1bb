"""Tells Weights & Biases of a run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pipeline import paths
from pipeline.callbacks.listener import register
from pipeline.callbacks.tracking import SAMPLES, Tracker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.callbacks.tracking import Ending, Start


@register("wandb")
@dataclass(frozen=True)
class Wandb(Tracker):
    """A run of Weights & Biases for every start, grouped by the digest of the run."""

    project: str | None = None
    """Project; the run's name if not given."""
    entity: str | None = None
    """User or team; the one that is logged in if not given."""
    mode: Literal["online", "offline"] | None = None
    """``offline`` only writes files, for `wandb sync`; what ``WANDB_MODE`` says if not given."""
    folder: str | None = None
    """Where its files are written; ``WANDB_DIR``, else the working directory, if not given."""
    tags: tuple[str, ...] = ()
    """Tags of the run."""

    extra: ClassVar[str] = "wandb"
    library: ClassVar[str] = "wandb"

    def begin(self, start: Start) -> WandbRun:
        """Begin a run of Weights & Biases."""
        # its reports of errors; read when it is imported, and the user's own word stands
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        run = wandb.init(
            project=self.project or start.config.name,
            entity=self.entity,
            name=f"{start.config.name}-{start.epoch}",
            group=start.digest[:16],
            tags=list(self.tags),
            mode=self.mode,
            dir=self.folder,
            config={**start.parameters, **start.tags},
            reinit="create_new",
            settings=_settings(),
        )
        return WandbRun(run)


def _settings() -> Any:
    """Return that it keeps to figures: no console, code, packages or machine is recorded."""
    import wandb

    return wandb.Settings(
        console="off",
        silent=True,
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        save_code=False,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )


class WandbRun:
    """A run of Weights & Biases that is being written.

    Parameters
    ----------
    run
        What `wandb.init` returned.
    """

    def __init__(self, run: Any) -> None:
        self._run = run
        self._passes: set[str] = set()

    def figures(self, pass_name: str, values: Mapping[str, float], step: int) -> None:
        """Keep figures of a pass; each pass counts its own samples, as steps of a run only grow."""
        if pass_name not in self._passes:
            self._passes.add(pass_name)
            self._run.define_metric(f"{pass_name}/*", step_metric=f"{pass_name}/{SAMPLES}")
        self._run.log({f"{pass_name}/{name}": value for name, value in values.items()})

    def finish(self, ending: Ending) -> None:
        """Keep scores and totals in the summary, and the exit code."""
        told: dict[str, Any] = {**ending.scores, **ending.totals, "exit_code": ending.exit_code}
        if ending.message:
            told["error"] = ending.message
        self._run.summary.update(told)
        page = paths.Folder(ending.path)
        if page.is_local and page.exists(paths.REPORT):
            self._run.summary["report"] = page.at(paths.REPORT)
        is_done = ending.exit_code in (0, 4, 5)
        self._run.finish(exit_code=0 if is_done else ending.exit_code)
