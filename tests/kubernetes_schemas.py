"""Strict schemas of the kinds of Kubernetes and KubeRay that our files have.

Fields, types and what is required are those of the API references of Kubernetes 1.30 (Pod,
CronJob, ConfigMap, PersistentVolumeClaim, NetworkPolicy) and KubeRay 1.7 (RayCluster, RayJob,
RayCronJob). It is the part that we use. Any other field is an error, and some that may be left out
have to be there, as files without them would run at another's cost: bounds, limits, the token.
"""

from typing import Any

from jsonschema import Draft202012Validator, ValidationError

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
YES_OR_NO: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
NAME: Schema = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "maxLength": 253}
QUANTITY: Schema = {"type": "string", "pattern": r"^\d+(\.\d+)?(m|Ki|Mi|Gi|Ti)?$"}
CRON: Schema = {"type": "string", "pattern": r"^(\S+ ){4}\S+$"}
TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}


def closed(required: tuple[str, ...] = (), /, **properties: Schema) -> Schema:
    """An object with these fields and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def listed(items: Schema, least: int = 1) -> Schema:
    return {"type": "array", "items": items, "minItems": least}


def one_of(*values: str) -> Schema:
    return {"enum": list(values)}


def in_any(*schemas: Schema) -> Schema:
    return {"oneOf": list(schemas)}


METADATA = closed(("name",), name=NAME, labels=TEXTS, annotations=TEXTS)
POD_METADATA = closed(labels=TEXTS, annotations=TEXTS)
SELECTOR = closed(("matchLabels",), matchLabels=TEXTS)

# Requests and limits: nvidia.com/gpu has to be a limit, and is a whole number.
AMOUNTS = {
    "type": "object",
    "properties": {
        "cpu": QUANTITY,
        "memory": QUANTITY,
        "nvidia.com/gpu": {"type": "string", "pattern": r"^[1-9]\d*$"},
    },
    "additionalProperties": False,
}
NEEDS = closed(("requests", "limits"), requests=AMOUNTS, limits=AMOUNTS)
GPU_NEEDS = closed(
    ("requests", "limits"),
    requests=AMOUNTS,
    limits={**AMOUNTS, "required": ["cpu", "memory", "nvidia.com/gpu"]},
)

KEY = closed(("name", "key"), name=NAME, key=TEXT)
VARIABLE = in_any(
    closed(("name", "value"), name=TEXT, value={"type": "string"}),
    closed(("name", "valueFrom"), name=TEXT, valueFrom=closed(("secretKeyRef",), secretKeyRef=KEY)),
)
MOUNT = closed(("name", "mountPath"), name=NAME, mountPath=TEXT, subPath=TEXT, readOnly=YES_OR_NO)
VOLUME = in_any(
    closed(("name", "configMap"), name=NAME, configMap=closed(("name",), name=NAME)),
    closed(
        ("name", "emptyDir"),
        name=NAME,
        emptyDir=closed(medium=one_of("Memory"), sizeLimit=QUANTITY),
    ),
    closed(
        ("name", "persistentVolumeClaim"),
        name=NAME,
        persistentVolumeClaim=closed(("claimName",), claimName=NAME),
    ),
)
TOLERATION = closed(
    ("key", "operator", "effect"),
    key=TEXT,
    operator=one_of("Exists"),
    effect=one_of("NoSchedule", "PreferNoSchedule", "NoExecute"),
)


def container(needs: Schema) -> Schema:
    return closed(
        ("name", "image", "resources"),
        name=NAME,
        image={"type": "string", "pattern": r"^[^\s:]+:[\w.-]+$"},
        command=listed(TEXT),
        args=listed(TEXT),
        workingDir=TEXT,
        ports=listed(closed(("containerPort",), containerPort=PORT, name=NAME)),
        env=listed(VARIABLE),
        envFrom=listed(closed(("secretRef",), secretRef=closed(name=NAME, optional=YES_OR_NO))),
        resources=needs,
        securityContext=closed(
            allowPrivilegeEscalation=YES_OR_NO, runAsNonRoot=YES_OR_NO, runAsUser=COUNT
        ),
        volumeMounts=listed(MOUNT),
    )


def pod(needs: Schema, *required: str) -> Schema:
    """A pod's template; ``required`` are fields of its spec beside the containers."""
    spec = closed(
        ("containers", *required),
        containers=listed(container(needs)),
        volumes=listed(VOLUME),
        nodeSelector=TEXTS,
        tolerations=listed(TOLERATION),
        restartPolicy=one_of("Never", "OnFailure"),
        terminationGracePeriodSeconds=COUNT,
        serviceAccountName=NAME,
        securityContext=closed(fsGroup=COUNT),
    )
    return closed(("spec",), metadata=POD_METADATA, spec=spec)


# KubeRay: all parameters of `ray start` are texts.
WORKERS = closed(
    ("groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"),
    groupName=NAME,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    labels=TEXTS,
    rayStartParams=TEXTS,
    template=pod(GPU_NEEDS, "tolerations"),
)
HEAD = closed(
    ("rayStartParams", "template"),
    serviceType=one_of("ClusterIP"),
    rayStartParams=TEXTS,
    template=pod(NEEDS),
)
CLUSTER = closed(
    ("rayVersion", "authOptions", "enableInTreeAutoscaling", "headGroupSpec", "workerGroupSpecs"),
    rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
    authOptions=closed(("mode", "secretName"), mode=one_of("token"), secretName=NAME),
    enableInTreeAutoscaling=YES_OR_NO,
    autoscalerOptions=closed(
        version=one_of("v1", "v2"),
        upscalingMode=one_of("Default", "Aggressive", "Conservative"),
        idleTimeoutSeconds=COUNT,
        resources=NEEDS,
    ),
    headGroupSpec=HEAD,
    workerGroupSpecs=listed(WORKERS),
)
JOB = closed(
    ("entrypoint", "rayClusterSpec", "shutdownAfterJobFinishes"),
    entrypoint=TEXT,
    submissionMode=one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    entrypointNumCpus={"type": "number", "minimum": 0},
    entrypointNumGpus={"type": "number", "minimum": 0},
    runtimeEnvYAML=TEXT,
    backoffLimit=COUNT,
    preRunningDeadlineSeconds={"type": "integer", "minimum": 1},
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    shutdownAfterJobFinishes=YES_OR_NO,
    ttlSecondsAfterFinished=COUNT,
    rayClusterSpec=CLUSTER,
)
CRON_JOB = closed(
    ("schedule", "jobTemplate"),
    schedule=CRON,
    timeZone=TEXT,
    concurrencyPolicy=one_of("Allow", "Forbid", "Replace"),
    startingDeadlineSeconds=COUNT,
    successfulJobsHistoryLimit=COUNT,
    failedJobsHistoryLimit=COUNT,
    suspend=YES_OR_NO,
    jobTemplate=closed(
        ("spec",),
        spec=closed(
            ("template",),
            backoffLimit=COUNT,
            podFailurePolicy=closed(
                ("rules",),
                rules=listed(
                    closed(
                        ("action",),
                        action=one_of("FailJob", "Ignore", "Count", "FailIndex"),
                        onExitCodes=closed(
                            ("operator", "values"),
                            operator=one_of("In"),
                            values=listed(COUNT),
                        ),
                        onPodConditions=listed(closed(("type",), type=TEXT)),
                    )
                ),
            ),
            # pods of jobs have to say whether they are started again
            template=pod(NEEDS, "restartPolicy"),
        ),
    ),
)
CLAIM = closed(
    ("accessModes", "resources"),
    accessModes=listed(one_of("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany")),
    storageClassName=NAME,
    resources=closed(("requests",), requests=closed(("storage",), storage=QUANTITY)),
)
RULE = closed(
    **{"from": listed(closed(("podSelector",), podSelector=SELECTOR))},
    ports=listed(closed(("port",), port=PORT, protocol=one_of("TCP", "UDP", "SCTP"))),
)
POLICY = closed(
    ("podSelector", "policyTypes"),
    podSelector=SELECTOR,
    policyTypes=listed(one_of("Ingress", "Egress")),
    ingress=listed(RULE),
)


def _kind(version: str, spec: Schema, name: str = "spec") -> Schema:
    fields = {"apiVersion": one_of(version), "kind": TEXT, "metadata": METADATA, name: spec}
    return closed(tuple(fields), **fields)


KINDS = {
    "RayCluster": _kind("ray.io/v1", CLUSTER),
    "RayJob": _kind("ray.io/v1", JOB),
    "RayCronJob": _kind(
        "ray.io/v1",
        closed(
            ("schedule", "jobTemplate"),
            schedule=CRON,
            timeZone=TEXT,
            suspend=YES_OR_NO,
            jobTemplate=JOB,
        ),
    ),
    "CronJob": _kind("batch/v1", CRON_JOB),
    "ConfigMap": _kind("v1", TEXTS, "data"),
    "PersistentVolumeClaim": _kind("v1", CLAIM),
    "NetworkPolicy": _kind("networking.k8s.io/v1", POLICY),
}
"""By kind."""


VALIDATORS = {kind: Draft202012Validator(schema) for kind, schema in KINDS.items()}


def errors_in(resource: Schema) -> list[str]:
    """What is wrong with a resource; below alternatives, too."""
    found: list[str] = []
    waiting: list[ValidationError] = list(VALIDATORS[resource["kind"]].iter_errors(resource))
    while waiting:
        error = waiting.pop()
        found.append(error.message)
        waiting.extend(error.context or ())
    return found
