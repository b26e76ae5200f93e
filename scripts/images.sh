#!/usr/bin/env bash
# Builds the images of manifests/images, and pushes them to a registry or loads them into a local cluster.
#
# Usage: scripts/images.sh build [NAME...]             builds missing images; NAME is router, redis, torchserve, train or spark
#        scripts/images.sh push REGISTRY [NAME...]     builds images, and pushes them as REGISTRY/NAME:TAG
#        scripts/images.sh load [NAME...]              builds images, and loads each with the command LOAD
#        scripts/images.sh list [NAME...]              prints names with tags, and their size or "not built"
#        scripts/images.sh lock [NAME...]              writes the newest versions that pyproject.toml allows, with hashes, into
#                                                      manifests/images/NAME/requirements.txt, which the images install; needs uv
#
# build, push and load print a kustomize component with the images. List it as the last component of your overlay:
#        scripts/images.sh push registry.example.org/mtorl >my-overlay/images/kustomization.yaml
#
# A tag is the project's version and a hash of the image's inputs: its Dockerfile, the files that it copies (as they are in the
# working tree, committed or not) and TORCH_FROM. Packages from PyPI are locked by hashes, except torch, whose builds differ. torch
# and Debian packages are the newest at build time. After a push, the component contains digests, so your overlay changes only when
# you replace the component.
#
#   CONTAINER_ENGINE  docker, podman or buildah; default: the first one found
#   TORCH_FROM        pip arguments that install torch. Default: PyTorch's index of CPU builds. For a mirror: "--index-url
#                     https://mirror/whl/cpu"; for a folder with wheels: "--find-links /wheels" (podman, buildah: BUILD_OPTIONS="-v /wheels:/wheels:ro").
#                     "torch" is the PyPI build with CUDA, which adds 5 GB: only for train, if its steps run on GPU nodes
#   BUILD_OPTIONS     more options for the engine's build: --network=host, --build-arg PIP_INDEX_URL=https://mirror/simple, ...
#   SBOM              folder for lists of each image's contents: NAME.cdx.json from syft, or else NAME.pip.json and NAME.dpkg.txt
#   SIGN              arguments of `cosign sign`, which signs the pushed digest: "--key cosign.key"; unset: no signature
#   LOAD              command that loads an image by name: "kind load docker-image", "minikube image load", "k3d image import", ...
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/.."
images=manifests/images
ours=ghcr.io/mtorl-kubeflow         # registry in the manifests

die() { echo "images.sh: $*" >&2; exit 1; }
usage() { sed -n '/^# Usage/,/^set /p' scripts/images.sh | sed '$d; s/^# \{0,1\}//'; }

engine() {
  if [ -z "${CONTAINER_ENGINE:-}" ]; then
    for CONTAINER_ENGINE in docker podman buildah; do ! command -v "$CONTAINER_ENGINE" >/dev/null || return 0; done
    die "found neither docker, podman nor buildah; install one, or set another engine: CONTAINER_ENGINE=nerdctl"
  fi
  command -v "$CONTAINER_ENGINE" >/dev/null || die "CONTAINER_ENGINE=$CONTAINER_ENGINE: no such command"
}

# Lists the files that a Dockerfile copies from the repository; "." means the files that .dockerignore admits.
copied() {
  local word words=()
  for word in $(sed -nE 's/^COPY (--chmod=\S+ )?([^-].*) \S+$/\2/p' "$images/$1/Dockerfile"); do
    if [ "$word" = . ]; then mapfile -t -O "${#words[@]}" words < <(sed -n 's/^!//p' .dockerignore | grep -vx "$images"); else words+=("$word"); fi
  done
  find "${words[@]}" -type f -not -path '*/__pycache__/*' -not -path '*.egg-info/*' | LC_ALL=C sort -u
}

has_torch() { grep -q '^ARG TORCH_FROM' "$images/$1/Dockerfile"; }

tag() {
  local version python= hash
  version=$(sed -nE 's/^version = "(.*)"$/\1/p' pyproject.toml)
  case $1 in train | spark) python=-python3.11 ;; esac      # kfp prints a warning if an image's name does not contain "python"
  hash=$({ copied "$1"; echo "$images/$1/Dockerfile"; } | xargs -d '\n' sha256sum)
  ! has_torch "$1" || hash+=${TORCH_FROM-default}
  echo "$version$python-$(sha256sum <<<"$hash" | cut -c1-12)"
}

size() { "$CONTAINER_ENGINE" images --format '{{.Size}}' "$1" 2>/dev/null | head -n 1 || true; }      # prints nothing if there is no such image

build() {
  local image=$ours/$1:$2 options=()
  [ -z "$(size "$image")" ] || return 0
  ! has_torch "$1" || [ -z "${TORCH_FROM+set}" ] || options+=(--build-arg "TORCH_FROM=$TORCH_FROM")
  [ "$1" != train ] || options+=(--build-arg "MTORL_REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)")
  read -ra more <<<"${BUILD_OPTIONS:-}"
  # BUILDAH_LAYERS: by default, buildah does not cache layers, unlike the other engines.
  BUILDAH_LAYERS=true "$CONTAINER_ENGINE" build -f "$images/$1/Dockerfile" -t "$image" "${options[@]}" "${more[@]}" . >&2
}

push() { # NAME TAG REGISTRY: prints the digest, if the registry returns one
  local image=$3/$1:$2 file
  "$CONTAINER_ENGINE" tag "$ours/$1:$2" "$image"
  case $CONTAINER_ENGINE in
    *podman | *buildah) file=$(mktemp); "$CONTAINER_ENGINE" push --digestfile "$file" "$image" >&2; cat "$file"; rm "$file" ;;
    *) "$CONTAINER_ENGINE" push "$image" >&2
       "$CONTAINER_ENGINE" image inspect --format '{{join .RepoDigests "\n"}}' "$image" | sed -n "s#^$3/$1@##p" ;;
  esac
}

lock() { # leaves out torch, by a marker that is never true, because the Dockerfile installs torch from TORCH_FROM
  local extras=()
  case $1 in
    router) extras=(--extra router --extra operator) ;;
    torchserve) extras=(--extra handlers) ;;
    train) extras=(--extra all) ;;
    spark) extras=(--extra spark) ;;
    *) return 0 ;;
  esac
  uv pip compile --quiet --upgrade pyproject.toml "${extras[@]}" --override <(echo 'torch; python_version < "3"') --generate-hashes --no-strip-extras --no-annotate \
    --no-header --python-version 3.11 --python-platform x86_64-unknown-linux-gnu -o "$images/$1/requirements.txt" >/dev/null
}

sbom() { # NAME IMAGE
  mkdir -p "$SBOM"
  if command -v syft >/dev/null; then syft scan --quiet "$2" -o "cyclonedx-json=$SBOM/$1.cdx.json"; return; fi
  [[ $CONTAINER_ENGINE != *buildah ]] || die "with buildah, SBOM needs syft"
  "$CONTAINER_ENGINE" run --rm --entrypoint dpkg-query "$2" -W >"$SBOM/$1.dpkg.txt"
  [ ! -f "$images/$1/requirements.txt" ] || "$CONTAINER_ENGINE" run --rm --entrypoint pip "$2" inspect >"$SBOM/$1.pip.json"
}

load_command() {
  local context
  context=$(kubectl config current-context 2>/dev/null || true)
  case ${LOAD:-}:$context in
    [!:]*) echo "$LOAD" ;;
    :kind-*) echo "kind load docker-image --name ${context#kind-}" ;;
    :k3d-*) echo "k3d image import -c ${context#k3d-}" ;;
    :minikube) echo "minikube image load" ;;
    *) die "LOAD is not set, and the context '$context' is not kind, k3d or minikube. Use LOAD=\"COMMAND\" scripts/images.sh load, or push to a registry" ;;
  esac
}

command=${1:-}
registry=$ours load=
case $command in
  build | list | lock) shift ;;
  load) shift; load=$(load_command) ;;
  push) registry=${2:-}; [ -n "$registry" ] || die "push REGISTRY: for example registry.example.org/mtorl"; shift 2 ;;
  -h | --help | help) usage; exit ;;
  *) usage >&2; exit 2 ;;
esac
names=("$@")
((${#names[@]})) || names=(router redis torchserve train spark)
for name in "${names[@]}"; do [ -f "$images/$name/Dockerfile" ] || die "$name: no such image; there are $(cd $images && echo *)"; done
if [ "$command" = lock ]; then for name in "${names[@]}"; do lock "$name"; done; exit; fi
engine

block=()
for name in "${names[@]}"; do
  tag=$(tag "$name")
  image=$ours/$name:$tag
  version="newTag: $tag"
  if [ "$command" = list ]; then at=$(size "$image"); printf '%-68s %s\n' "$image" "${at:-not built}"; continue; fi
  build "$name" "$tag"
  [ -z "${SBOM:-}" ] || sbom "$name" "$image"
  case $command in
    load) $load "$image" >&2 ;;
    push) digest=$(push "$name" "$tag" "$registry"); [ -z "$digest" ] || version="digest: $digest"
          [ -z "${SIGN:-}" ] || [ -n "$digest" ] || die "$name: the registry returned no digest, so there is nothing to sign"
          [ -z "${SIGN:-}" ] || cosign sign --yes $SIGN "$registry/$name@$digest" >&2 ;;
  esac
  echo "$image  $(size "$image")" >&2
  [ "$registry" = "$ours" ] || version="newName: $registry/$name, $version"
  block+=("- {name: $ours/$name, $version}")
done
[ "$command" = list ] || printf '%s\n' "apiVersion: kustomize.config.k8s.io/v1alpha1" "kind: Component" "images:" "${block[@]}"
