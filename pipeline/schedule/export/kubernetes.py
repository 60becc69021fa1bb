"""A schedule as a CronJob of Kubernetes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from pipeline.errors import ScheduleError
from pipeline.schedule.export import crontab
from pipeline.schedule.fields import Fields, compact

if TYPE_CHECKING:
    from pipeline.schedule.export.entry import Entry
    from pipeline.schedule.times import Times

FOLDER = "/project"
"""Where the pod sees the project."""
TOKEN = "xpipe-ray-token"
"""Secret with the token of a Ray cluster."""
KEY = "auth_token"
"""Of the token in it: where KubeRay looks for it, so that one secret does for both."""
_REFUSED = [2, 3, 4, 5]
"""Exit codes of which a second try would end alike: wrong usage, refused, a gate, failures."""

_HEAD = """\
# schedule {name}: {cron} in {timezone}
#   kubectl apply -f {name}.yaml
# The claim {claim!r} holds the project: the run file and the folder {book}, to which what is
# known of earlier runs is written. Runs go where output.path says: below {folder}, or an object
# store. Give the container the CPUs, memory and GPUs that the run needs.
"""
_HEAD_OF_CLUSTER = """\
# The pod only submits the run to {address} and waits for it; the cluster does the work. Its token:
#   kubectl create secret generic {token} --from-literal={key}=...
"""


def text(entry: Entry, *, image: str, claim: str) -> str:
    """Return the YAML of a CronJob.

    Parameters
    ----------
    entry
        What is started.
    image
        Container image that has xpipe.
    claim
        Persistent volume claim with the project at its root.

    Raises
    ------
    ScheduleError
        If Kubernetes cannot say when the schedule is due.
    """
    head = _HEAD.format(
        name=entry.name,
        cron=entry.schedule.cron,
        timezone=entry.schedule.timezone,
        claim=claim,
        book=_inside(entry),
        folder=FOLDER,
    )
    if entry.schedule.address:
        head += _HEAD_OF_CLUSTER.format(address=entry.schedule.address, token=TOKEN, key=KEY)
    return head + yaml.safe_dump(cron_job(entry, image=image, claim=claim), sort_keys=False)


def cron_job(entry: Entry, *, image: str, claim: str) -> dict[str, Any]:
    """Return a CronJob as plain values; the parameters are those of `text`.

    Two occurrences never overlap: ``concurrencyPolicy: Forbid`` keeps the next one from starting,
    which is why the command may take a schedule over that a dead pod owned: each pod has another
    host name, behind which nobody can see whether the owner lives.
    """
    labels = {"app.kubernetes.io/name": "xpipe", "xpipe/schedule": entry.name}
    job = {
        "backoffLimit": 2,
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onExitCodes": {"operator": "In", "values": _REFUSED}},
                # a node that is drained or lost is not the run's fault
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
            ]
        },
        "template": {"metadata": {"labels": labels}, "spec": _pod(entry, image, claim)},
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": entry.name, "labels": dict(labels)},
        "spec": {
            "schedule": expression(entry.schedule.times),
            "timeZone": entry.schedule.timezone,
            "concurrencyPolicy": "Forbid",
            # without it, a hundred missed starts stop a CronJob for ever
            "startingDeadlineSeconds": 3600,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": {"spec": job},
        },
    }


def _pod(entry: Entry, image: str, claim: str) -> dict[str, Any]:
    arguments = ["schedule", "run", entry.name, "--take-over"]
    if _inside(entry) != "schedules":
        arguments += ["--in", _inside(entry)]
    container: dict[str, Any] = {
        "name": "xpipe",
        "image": image,
        "command": ["xpipe"],
        "args": arguments,
        "workingDir": FOLDER,
        "volumeMounts": [{"name": "project", "mountPath": FOLDER}],
    }
    if entry.schedule.address:
        secret = {"secretKeyRef": {"name": TOKEN, "key": KEY}}
        container["env"] = [
            {"name": "RAY_AUTH_MODE", "value": "token"},
            {"name": "RAY_AUTH_TOKEN", "valueFrom": secret},
        ]
    return {
        "restartPolicy": "Never",
        # asked to stop, a run finishes the shards in flight
        "terminationGracePeriodSeconds": 900,
        "containers": [container],
        "volumes": [{"name": "project", "persistentVolumeClaim": {"claimName": claim}}],
    }


def _inside(entry: Entry) -> str:
    return str(entry.book.relative_to(entry.folder))


def expression(times: Times) -> str:
    """Return an expression that Kubernetes understands, and understands alike.

    It takes day of the month and weekday as either unless one is ``*`` alone; Sunday is 0 only.

    Raises
    ------
    ScheduleError
        If it has the last or the nth of something, or two days that both have to fit.
    """
    crontab.expression(times)  # refuses what both cannot say
    fields = Fields.of(times)
    is_free = fields.takes_every_day or fields.takes_every_weekday
    if not fields.is_either and not is_free:
        raise ScheduleError(
            f"in {times.cron!r} both the day of the month and the weekday have to fit, as one "
            "begins with '*'; Kubernetes would take either",
            fix="export it as a systemd timer, or list the days without '*'",
            page="schedule-export",
        )
    is_daily = fields.is_either and is_free
    every_day = is_daily or fields.takes_every_day
    every_weekday = is_daily or fields.takes_every_weekday
    return " ".join(
        (
            "*" if len(fields.minutes) == 60 else compact(fields.minutes),
            "*" if len(fields.hours) == 24 else compact(fields.hours),
            "*" if every_day else compact(fields.days),
            "*" if len(fields.months) == 12 else compact(fields.months),
            "*" if every_weekday else compact(fields.weekdays),
        )
    )
