#!/bin/bash
set -euo pipefail
repo_id="google/gemma-3-4b-it"
local_dir="$(mktemp -d)"
gcs_prefix="gemma-3-4b-it"
hf download "$repo_id" --revision "$COMMIT" --local-dir "$local_dir"
gcloud storage rsync -r "$local_dir" "gs://$BUCKET/$gcs_prefix"
