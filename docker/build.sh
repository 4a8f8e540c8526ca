#!/usr/bin/env bash
# Builds the images: make image [IMAGES="penstock penstock-vllm"] [REGISTRY=host/path] [PUSH=1] [BUILDER=podman]
# Needs docker with a running daemon, podman or buildah. Bases are pinned by digest: docker/bases.lock.
set -euo pipefail
cd "$(dirname "$0")/.."

read -r -a images <<<"${IMAGES:-penstock penstock-vllm penstock-ray penstock-chat}"
registry="${REGISTRY:-localhost}"
python="${PYTHON:-python3}"
out=dist/images

die() {
  printf 'error: %s\n' "$1" >&2
  printf 'hint: %s\n' "$2" >&2
  exit 1
}

works() { # BUILDER
  case "$1" in
    docker) docker info 2>/dev/null | grep -q 'Server Version' ;;
    podman) podman info >/dev/null 2>&1 ;;
    buildah) buildah version >/dev/null 2>&1 ;;
    *) false ;;
  esac
}

builder="${BUILDER:-}"
if [ -z "$builder" ]; then
  for each in docker podman buildah; do
    if command -v "$each" >/dev/null && works "$each"; then
      builder="$each"
      break
    fi
  done
fi
if [ -z "$builder" ] || ! works "$builder"; then
  for each in docker podman buildah; do
    if command -v "$each" >/dev/null; then
      printf '%s is installed, and does not answer: is its daemon running, and may you use it?\n' "$each" >&2
    else
      printf '%s is not installed\n' "$each" >&2
    fi
  done
  die "no builder of images here" "install podman or buildah, which need no daemon, or start docker's"
fi

base_of() { # IMAGE: its base with a digest, from the lock, or from the registry and into the lock
  local found name digest
  touch docker/bases.lock
  found="$(sed -n "s/^$1=//p" docker/bases.lock)"
  if [ -z "$found" ]; then
    name="$(sed -n "s/^$1=//p" docker/bases.env)"
    [ -n "$name" ] || die "there is no image $1" "IMAGES is of: $(sed -n 's/^\([a-z-]*\)=.*/\1/p' docker/bases.env | tr '\n' ' ')"
    if [ "$builder" = buildah ]; then
      buildah pull --quiet "$name" >/dev/null
      digest="$(buildah images --digests --format '{{.Digest}}' "$name" | head -n 1)"
    else
      "$builder" pull --quiet "$name" >/dev/null
      digest="$("$builder" image inspect --format '{{index .RepoDigests 0}}' "$name")"
      digest="${digest##*@}"
    fi
    case "$digest" in
      sha256:*) ;;
      *) die "$name: the registry says no digest" "write $1=NAME@sha256:… into docker/bases.lock" ;;
    esac
    found="${name%:*}@$digest"
    printf '%s=%s\n' "$1" "$found" >>docker/bases.lock
  fi
  printf '%s\n' "$found"
}

version="$(sed -n 's/^__version__ = "\(.*\)"/\1/p' src/penstock/_version.py)"
rm -rf "$out"
mkdir -p "$out"
docker/wheels.sh "$out/wheels" 3.12

for image in "${images[@]}"; do
  base="$(base_of "$image")"
  context="$out/$image"
  cp -R "docker/$image" "$context"
  cp -R "$out/wheels" "$context/wheels"
  "$python" docker/sbom.py "$context/wheels" "$base" >"$context/sbom.cdx.json"
  tag="$registry/$image:$version"
  printf '\n== %s, on %s\n' "$tag" "$base" >&2
  arguments=(--build-arg "BASE=$base" --build-arg "VERSION=$version" --tag "$tag")
  if [ "$builder" = docker ]; then
    DOCKER_BUILDKIT=1 docker build "${arguments[@]}" "$context"
  else
    "$builder" build --format docker "${arguments[@]}" "$context"
  fi
  cp "$context/sbom.cdx.json" "$out/$image.cdx.json"
  if command -v syft >/dev/null; then # all that is in it, the base's packages too
    syft "$tag" --output "cyclonedx-json=$out/$image.syft.json"
  fi
  if [ -n "${PUSH:-}" ]; then
    "$builder" push "$tag"
  fi
done
printf '\nbuilt: %s; bills of materials in %s\n' "${images[*]}" "$out" >&2
