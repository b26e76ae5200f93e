"""Messages of the pipeline steps."""

from mtorl.runtime.message import Words

JOB_FAILED = Words("job-failed", "TrainJob {job} failed: {why}")
NO_TRAINER = Words("no-trainer", "{error}. The cluster has no TrainJobs: install Kubeflow Trainer 2.2 or later.")
NO_MODEL = Words("no-model", "TrainJob {job} did not write {path}. The job's claim {claim} must be the step's volume.")
END_UNKNOWN = Words("end-unknown", "Kubernetes did not return the state of the steps: {error}")
