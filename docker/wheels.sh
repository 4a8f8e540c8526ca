#!/usr/bin/env bash
# The wheels of penstock and of all it needs, for the images: docker/wheels.sh FOLDER [PYTHON_VERSION]
# Versions are those of docker/constraints.txt. Nothing is compiled: what has no wheel is an error.
set -euo pipefail
cd "$(dirname "$0")/.."
folder="${1:?usage: docker/wheels.sh FOLDER [PYTHON_VERSION]}"
version="${2:-}"
python="${PYTHON:-python3}"
rm -rf "$folder"
mkdir -p "$folder"
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$folder" .
penstock="$(ls "$folder"/penstock-*.whl)"
target=()
if [ -n "$version" ]; then
  target=(--python-version "$version" --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 --platform any)
fi
"$python" -m pip download --quiet --disable-pip-version-check --only-binary=:all: ${target[@]+"${target[@]}"} \
  --constraint docker/constraints.txt --dest "$folder" "${penstock}[s3,gcs,azure]"
