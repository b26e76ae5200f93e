#!/usr/bin/env bash
# Checks a cluster against the requirements of the manifests before you apply them, and prints a remedy for each gap.
# Read-only. Prerequisites: kubectl, and a kubeconfig that may read one namespace and its Secrets.
#
# Usage: scripts/check-cluster.sh [NAMESPACE]       default: mtorl, as in overlays/production; overlays/dev uses mtorl-dev
#
#   ok        the requirement is met
#   missing   nothing runs without this requirement: the exit status is 1
#   absent    optional; the line names the change to your overlay, or the feature that you lose
#   unknown   the script can't check it; the line says how you can
set -uo pipefail
namespace=${1:-mtorl}
failed=0
out=$(kubectl version -o json 2>&1) || { printf 'kubectl reaches no cluster: %s\n' "$out" >&2; exit 2; }

line() { printf '%-8s %-28s %s\n' "$1" "$2" "$3"; [ "$1" != missing ] || failed=1; }
resources=$(kubectl api-resources -o name 2>/dev/null)     # all resource kinds; every user may list them
has() { grep -qx "$1" <<<"$resources"; }
# check WORD WHAT FOUND ELSE COMMAND...: prints "ok WHAT FOUND" if the command succeeds, else "WORD WHAT ELSE"
check() {
  local word=$1 what=$2 found=$3 else=$4; shift 4
  if "$@" >/dev/null 2>&1; then line ok "$what" "$found"; else line "$word" "$what" "$else"; fi
}
secret() { kubectl -n "$namespace" get secret "$1" -o "jsonpath={.data.$2}" 2>/dev/null | grep -q .; }
labelled() { kubectl get namespace -l "mtorl-kubeflow/$1=true" -o name 2>/dev/null | grep -q .; }
overlay='add components/without-prometheus-operator to your overlay'

minor=$(sed -n '/serverVersion/,$ s/.*"minor": *"\([0-9]*\).*/\1/p' <<<"$out" | head -1)
if [ "${minor:-0}" -ge 30 ]; then line ok Kubernetes "1.$minor"; else line missing Kubernetes "1.${minor:-?}: upgrade to 1.30 or newer"; fi
check missing KServe 'serves the models' 'install KServe 0.20 or newer in Standard mode (https://kserve.github.io)' \
  has inferenceservices.serving.kserve.io
if ! classes=$(kubectl get storageclass -o jsonpath='{range .items[*]}{.metadata.annotations}{"\n"}{end}' 2>/dev/null); then
  line unknown 'default StorageClass' 'you may not list storage classes; ledger, decision log and Redis need a default one'
else
  check missing 'default StorageClass' 'for ledger, decision log and Redis' \
    'mark a class as default: kubectl annotate storageclass NAME storageclass.kubernetes.io/is-default-class=true' grep -q 'is-default-class":"true"' <<<"$classes"
fi
line unknown 'ReadWriteMany volume' "with several nodes, mtorl-data needs a ReadWriteMany storage class: set it in manifests/foundation/production"
check absent 'Prometheus Operator' 'scrapes metrics and evaluates alert rules' "alerts are not evaluated: $overlay" \
  has prometheusrules.monitoring.coreos.com
check absent 'receivers of alerts' 'AlertmanagerConfig' 'alerts are not delivered: use manifests/alertmanager with your own Alertmanager (docs/alerting.md)' \
  has alertmanagerconfigs.monitoring.coreos.com
check absent 'metrics API' 'the number of routers follows the load' 'the autoscaler keeps two routers: install metrics-server' \
  kubectl get apiservice v1beta1.metrics.k8s.io
line unknown 'NetworkPolicy' "needs a network plugin that enforces policies, such as Calico, Cilium, kube-network-policies or the provider's"
check absent 'Kubeflow Pipelines' 'nightly training' 'only the bootstrap trains models: docs/pipelines.md' has workflows.argoproj.io
check absent 'Kubeflow Spark Operator' 'components/spark-features can be added' 'omit components/spark-features: one pod builds the features' \
  has sparkapplications.sparkoperator.k8s.io
check absent Katib 'manifests/katib can be applied' 'omit manifests/katib: mtorl search runs on one machine' has trials.kubeflow.org

check missing 'resource Experiment' 'known to the API server' 'kubectl apply -k manifests/foundation/production (or dev)' \
  has experiments.mtorl-kubeflow.github.io
check missing "namespace $namespace" 'exists' 'kubectl apply -k manifests/foundation/production (or dev)' kubectl get namespace "$namespace"
check missing 'volume mtorl-data' 'claimed' 'kubectl apply -k manifests/foundation/production (or dev)' \
  kubectl -n "$namespace" get persistentvolumeclaim mtorl-data
check missing 'Secret mtorl-redis' 'password of Redis' \
  "kubectl -n $namespace create secret generic mtorl-redis --from-literal=password=\"\$(openssl rand -hex 24)\"" secret mtorl-redis password
check missing 'Secret mtorl-router' "callers' tokens" \
  "kubectl -n $namespace create secret generic mtorl-router --from-literal=tokens=\"\$(openssl rand -hex 24)\"" secret mtorl-router tokens
if has alertmanagerconfigs.monitoring.coreos.com; then
  check absent 'Secret mtorl-alerting' 'receivers of alerts' 'alerts are not delivered without it: docs/alerting.md' secret mtorl-alerting webhook-url
fi
if kubectl get namespaces -o name >/dev/null 2>&1; then
  check absent 'gateway' 'may call the routers' 'external calls are blocked: kubectl label namespace GATEWAY mtorl-kubeflow/gateway=true' labelled gateway
  check absent 'monitoring' 'may read the metrics' 'Prometheus is blocked: kubectl label namespace MONITORING mtorl-kubeflow/monitoring=true' \
    labelled monitoring
else
  line unknown 'gateway and monitoring' "you may not list namespaces; those of gateway and Prometheus need the labels mtorl-kubeflow/gateway=true and mtorl-kubeflow/monitoring=true"
fi

if [ "$failed" = 0 ]; then
  echo "ready: change your overlay as the lines marked absent say, then apply it"
else
  echo "not ready: first provide the requirements marked missing" >&2
fi
exit "$failed"
