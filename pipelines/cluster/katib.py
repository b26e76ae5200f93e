"""Writes the hyper-parameter search of `mtorl search` as a Katib experiment, with one Kubernetes Job per trial.

Katib (kubeflow.org/v1beta1, 0.19) needs these choices:

- The container has a `command`, because Katib would otherwise query the image's registry.
- No argument may need quotes, because Katib joins the arguments into a shell command.
- The metric is the latest value in the output, because this value belongs to the weights that training keeps.
- Early stopping is off, because restricted namespaces refuse its container.
"""

from pathlib import Path
from typing import Any

import yaml

from components.component import IMAGE
from components.trainer.train_job import CONTAINER_SECURITY, POD_SECURITY, VOLUME, labels_of
from mtorl.fitting.search import METRIC
from mtorl.fitting.search_space import SPACE, Parameter
from mtorl.runtime.errors import InputError
from mtorl.runtime.files import replacing
from pipelines.profile import MOUNT, TRAINING_SECONDS, on_cluster

NAME = "mtorl-search"
_CONTAINER = "trial"
_HEAD = f"""# A search for training hyper-parameters on a cluster: README.md. Written by `mtorl katib` from the space
# in mtorl/fitting/search_space.py; do not edit. Not in an overlay, because Katib refuses changes of a started search.
#   kubectl -n mtorl apply -k manifests/katib
#   kubectl -n mtorl get experiments.kubeflow.org {NAME} -o jsonpath='{{.status.currentOptimalTrial}}'
"""


def write(path: Path, windows: str, trials: int, parallel: int, epochs: int, seed: int) -> None:
    """Write the manifest of the search. Raises InputError if Katib can't run it.

    Args:
        windows: Folder with the training windows, as a path inside a pod.
    """
    if parallel > trials:
        raise InputError(f"parallel must be at most trials, got {parallel} and {trials}")
    if not windows.startswith(f"{MOUNT}/"):
        raise InputError(f"windows must be on the data volume, {MOUNT}, got {windows}")
    if strange := sorted({sign for sign in windows if not (sign.isalnum() or sign in "/._-")}):
        raise InputError(f"windows: a shell would interpret {''.join(strange)!r}; use letters, digits, / . _ and -")
    job = _job(["trial", windows, f"--epochs={epochs}", f"--seed={seed}"])
    made = _experiment(trials, parallel, seed, job)
    with replacing(path) as unfinished:
        unfinished.write_text(_HEAD + yaml.safe_dump(made, sort_keys=False, width=120))


def _experiment(trials: int, parallel: int, seed: int, job: dict[str, Any]) -> dict[str, Any]:
    parameters = [{"name": p.name, "description": p.meaning, "reference": p.name} for p in SPACE]
    return {
        "apiVersion": "kubeflow.org/v1beta1",
        "kind": "Experiment",
        "metadata": {"name": NAME, "labels": labels_of(NAME, "search")},
        "spec": {
            "objective": {
                "type": "minimize",
                "objectiveMetricName": METRIC,
                "metricStrategies": [{"name": METRIC, "value": "latest"}],
            },
            "algorithm": {"algorithmName": "tpe", "algorithmSettings": [{"name": "random_state", "value": str(seed)}]},
            "parallelTrialCount": parallel,
            "maxTrialCount": trials,
            "maxFailedTrialCount": min(3, trials),
            "resumePolicy": "Never",
            "metricsCollectorSpec": {"collector": {"kind": "StdOut"}},
            "parameters": [_parameter(parameter) for parameter in SPACE],
            "trialTemplate": {
                "primaryContainerName": _CONTAINER,
                "successCondition": 'status.conditions.#(type=="Complete")#|#(status=="True")#',
                "failureCondition": 'status.conditions.#(type=="Failed")#|#(status=="True")#',
                "trialParameters": parameters,
                "trialSpec": job,
            },
        },
    }


def _parameter(parameter: Parameter) -> dict[str, Any]:
    if parameter.scale == "choice":
        return {
            "name": parameter.name,
            "parameterType": "discrete",
            "feasibleSpace": {"list": [str(choice) for choice in parameter.choices]},
        }
    return {
        "name": parameter.name,
        "parameterType": "int" if parameter.whole else "double",
        "feasibleSpace": {
            "min": f"{parameter.low:.10g}",
            "max": f"{parameter.high:.10g}",
            "distribution": "logUniform" if parameter.scale == "log" else "uniform",
        },
    }


def _job(command: list[str]) -> dict[str, Any]:
    settings = [f"--set={p.name}=${{trialParameters.{p.name}}}" for p in SPACE]
    resources = on_cluster(gpus=0).training
    container = {
        "name": _CONTAINER,
        "image": IMAGE,
        "command": ["mtorl"],
        "args": [*command, *settings],
        "resources": {
            "requests": {"cpu": resources.cpu, "memory": resources.memory},
            # A trial trains with a single thread, so a larger CPU limit would be unused.
            "limits": {"cpu": "2", "memory": resources.memory},
        },
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "data", "mountPath": MOUNT, "readOnly": True}],
    }
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": POD_SECURITY,
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "data", "persistentVolumeClaim": {"claimName": VOLUME}}],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": TRAINING_SECONDS,
            "template": {"metadata": {"labels": labels_of(NAME, "search")}, "spec": pod},
        },
    }
