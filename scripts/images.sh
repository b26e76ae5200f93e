#!/usr/bin/env bash
# Builds the images of manifests/images, and pushes them to a registry or loads them into a cluster that runs on this machine.
#
# Usage: scripts/images.sh build [NAME...]             those that are not there yet; NAME is router, redis, torchserve, train or spark
#        scripts/images.sh push REGISTRY [NAME...]     builds and pushes them as REGISTRY/NAME:TAG
#        scripts/images.sh load [NAME...]              builds them and hands each to the command LOAD
#        scripts/images.sh list [NAME...]              name with tag, and size or "not built"
#        scripts/images.sh lock [NAME...]              with uv: the newest versions that pyproject.toml allows, and their hashes, into
#                                                      manifests/images/NAME/requirements.txt, from which images are built
#
# build, push and load end with a kustomize component that names the images, for an overlay of yours to list as its last component:
#        scripts/images.sh push registry.example.org/mtorl >my-overlay/images/kustomization.yaml
#
# A tag is the project's version and a hash of what goes into the image: its Dockerfile, the files that it copies (as they lie in
# the folder, committed or not) and where torch comes from. Packages from PyPI are locked by hashes, but for torch, whose builds
# differ; torch and packages of Debian are those of the day of the build. What a push prints names digests, so that an overlay changes
# only when you change it.
#
#   CONTAINER_ENGINE  docker, podman or buildah; by default the first that is found
#   TORCH_FROM        words for pip that say where torch comes from. By default PyTorch's index of CPU builds; a mirror is "--index-url
#                     https://mirror/whl/cpu", a folder with wheels "--find-links /wheels" (podman, buildah: BUILD_OPTIONS="-v /wheels:/wheels:ro").
#                     "torch" is the build on PyPI, with CUDA: for train only, if its steps run on GPU nodes; it adds 5 GB
#   BUILD_OPTIONS     more options of the engine's build: --network=host, --build-arg PIP_INDEX_URL=https://mirror/simple, ...
#   SBOM              folder for a list of each image's contents: NAME.cdx.json by syft, or else NAME.pip.json and NAME.dpkg.txt
#   SIGN              words for `cosign sign`, which signs the digest that was pushed: "--key cosign.key"; unset: no signature
#   LOAD              command that takes the name of an image: "kind load docker-image", "minikube image load", "k3d image import", ...
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/.."
images=manifests/images
ours=ghcr.io/mtorl-kubeflow         # as the manifests name them

die() { echo "images.sh: $*" >&2; exit 1; }
usage() { sed -n '/^# Usage/,/^set /p' scripts/images.sh | sed '$d; s/^# \{0,1\}//'; }

engine() {
  if [ -z "${CONTAINER_ENGINE:-}" ]; then
    for CONTAINER_ENGINE in docker podman buildah; do ! command -v "$CONTAINER_ENGINE" >/dev/null || return 0; done
    die "none of docker, podman and buildah is installed; one of them builds the images (or name another: CONTAINER_ENGINE=nerdctl)"
  fi
  command -v "$CONTAINER_ENGINE" >/dev/null || die "CONTAINER_ENGINE=$CONTAINER_ENGINE: no such command"
}

# The files that a Dockerfile copies from the repository; "." is what .dockerignore lets through.
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
  case $1 in train | spark) python=-python3.11 ;; esac      # kfp warns of names without "python"
  hash=$({ copied "$1"; echo "$images/$1/Dockerfile"; } | xargs -d '\n' sha256sum)
  ! has_torch "$1" || hash+=${TORCH_FROM-default}
  echo "$version$python-$(sha256sum <<<"$hash" | cut -c1-12)"
}

size() { "$CONTAINER_ENGINE" images --format '{{.Size}}' "$1" 2>/dev/null | head -n 1 || true; }      # nothing if it is not there

build() {
  local image=$ours/$1:$2 options=()
  [ -z "$(size "$image")" ] || return 0
  ! has_torch "$1" || [ -z "${TORCH_FROM+set}" ] || options+=(--build-arg "TORCH_FROM=$TORCH_FROM")
  [ "$1" != train ] || options+=(--build-arg "MTORL_REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)")
  read -ra more <<<"${BUILD_OPTIONS:-}"
  # BUILDAH_LAYERS: buildah alone keeps no layers of an earlier build unless it is told to.
  BUILDAH_LAYERS=true "$CONTAINER_ENGINE" build -f "$images/$1/Dockerfile" -t "$image" "${options[@]}" "${more[@]}" . >&2
}

push() { # NAME TAG REGISTRY: prints the digest, if the registry says one
  local image=$3/$1:$2 file
  "$CONTAINER_ENGINE" tag "$ours/$1:$2" "$image"
  case $CONTAINER_ENGINE in
    *podman | *buildah) file=$(mktemp); "$CONTAINER_ENGINE" push --digestfile "$file" "$image" >&2; cat "$file"; rm "$file" ;;
    *) "$CONTAINER_ENGINE" push "$image" >&2
       "$CONTAINER_ENGINE" image inspect --format '{{join .RepoDigests "\n"}}' "$image" | sed -n "s#^$3/$1@##p" ;;
  esac
}

lock() { # "python<3" is never: torch is installed from TORCH_FROM before, and brings what it needs
  local extras=()
  case $1 in
    router) extras=(--extra router --extra operator) ;;
    torchserve) extras=(--extra handlers) ;;
    train) extras=(--extra all) ;;
    spark) extras=(--extra spark) ;;
    *) return 0 ;;
  esac
  uv pip compile --quiet --upgrade pyproject.toml "${extras[@]}" --override <(echo 'torch; python_version < "3"') --generate-hashes --no-annotate \
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
    *) die "LOAD is not set, and the context '$context' is no kind, k3d or minikube: LOAD=\"COMMAND\" scripts/images.sh load, or push to a registry" ;;
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
          [ -z "${SIGN:-}" ] || [ -n "$digest" ] || die "$name: the registry named no digest, so nothing is signed"
          [ -z "${SIGN:-}" ] || cosign sign --yes $SIGN "$registry/$name@$digest" >&2 ;;
  esac
  echo "$image  $(size "$image")" >&2
  [ "$registry" = "$ours" ] || version="newName: $registry/$name, $version"
  block+=("- {name: $ours/$name, $version}")
done
[ "$command" = list ] || printf '%s\n' "apiVersion: kustomize.config.k8s.io/v1alpha1" "kind: Component" "images:" "${block[@]}"
