"""Messages of the steps."""

from mtorl.runtime.message import Words

JOB_FAILED = Words("job-failed", "TrainJob {job} failed: {why}")
NO_TRAINER = Words("no-trainer", "{error}. This cluster knows no TrainJobs: install Kubeflow Trainer 2.2 or later.")
NO_MODEL = Words("no-model", "TrainJob {job} left no {path}. Its claim {claim} must be this step's volume.")
END_UNKNOWN = Words("end-unknown", "Kubernetes does not say how the steps ended: {error}")
