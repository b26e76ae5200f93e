#!/usr/bin/env bash
# Renders every overlay and every combination of the manifests, and checks the result offline.
#
# Prerequisites: kubectl. For the check also a validator, named by two variables:
#   VALIDATOR   script that reads rendered YAML from standard input (--crds, --refs, --external)
#   CRDS        its bundle of CRDs
# Without them the pair in ../shared/kubernetes is used when it is there; else the check is skipped, and said so.
# It runs with $PYTHON (default: the repository's .venv), which needs kubernetes-validate and, for CEL rules, cel-expr-python.
#
# Usage: scripts/validate-manifests.sh [FOLDER ...]        default: foundation, overlays, tests, katib and examples of manifests/
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

# What comes from elsewhere: the role and the ConfigMap are Kubernetes' own, the Secrets are the platform's (manifests/README.md), the volume is in manifests/foundation,
# and the pods of mtorl-search are made by Katib, those of mtorl-training by Kubeflow Trainer.
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
