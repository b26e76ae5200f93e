#!/usr/bin/env bash
# Renders every overlay and every combination of the manifests, and checks the result offline.
#
# Prerequisites: kubectl. The check also needs a validator, set by two variables:
#   VALIDATOR   script that reads rendered YAML from standard input (--crds, --refs, --external)
#   CRDS        bundle of CRDs for the validator
# By default, both come from ../shared/kubernetes. Without them, the script only renders, and prints that the check was skipped.
# The validator runs with $PYTHON (default: the repository's .venv), which needs kubernetes-validate and, for CEL rules, cel-expr-python.
#
# Usage: scripts/validate-manifests.sh [FOLDER ...]        default: foundation, overlays, tests, katib and examples in manifests/
set -euo pipefail
cd "$(dirname "$0")/.."

command -v kubectl >/dev/null || { echo "kubectl not found: it renders the manifests (https://kubernetes.io/docs/tasks/tools/)" >&2; exit 2; }
PYTHON=${PYTHON:-.venv/bin/python}
VALIDATOR=${VALIDATOR:-../shared/kubernetes/validate_manifests.py}
CRDS=${CRDS:-../shared/kubernetes/crds-bundle.json.gz}
skipped=
if [ ! -f "$VALIDATOR" ] || [ ! -f "$CRDS" ]; then
  skipped="set VALIDATOR and CRDS"
elif ! "$PYTHON" -c "import kubernetes_validate, jsonschema, yaml" 2>/dev/null; then
  skipped="$PYTHON has no kubernetes-validate"
fi

# Objects that the manifests refer to but do not define: Kubernetes has the role and the ConfigMap, the platform team creates the
# Secrets (manifests/README.md), manifests/foundation has the volume, Katib creates the pods of mtorl-search, and Kubeflow Trainer
# creates those of mtorl-training.
external=(--external 'ClusterRole/admin' --external 'Secret/mtorl-redis' --external 'Secret/mtorl-router' --external 'PersistentVolumeClaim/mtorl-data'
          --external 'NetworkPolicy/mtorl-search' --external 'NetworkPolicy/mtorl-training' --external 'Secret/mtorl-git' --external 'ConfigMap/kube-root-ca.crt')

folders=("$@")
((${#folders[@]})) || folders=(manifests/foundation/*/ manifests/overlays/*/ manifests/tests/*/ manifests/katib/)
((${#})) || mapfile -t -O "${#folders[@]}" folders < <(find manifests/examples -maxdepth 3 -name kustomization.yaml -printf '%h/\n' | sort)
rendered=$(mktemp)
trap 'rm -f "$rendered"' EXIT
failed=0
for folder in "${folders[@]}"; do
  printf '%-36s ' "${folder%/}"
  if ! kubectl kustomize "$folder" >"$rendered"; then
    failed=1
  elif [ -n "$skipped" ]; then
    echo "$(grep -c '^kind:' "$rendered") objects rendered"
  else
    "$PYTHON" "$VALIDATOR" --crds "$CRDS" --crds manifests/crds --refs "${external[@]}" <"$rendered" 2>&1 || failed=1
  fi
done
[ -z "$skipped" ] || echo "not checked against the API schemas: $skipped"
exit $failed
