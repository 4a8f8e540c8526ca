#!/bin/bash
set -euo pipefail
repo_id="google/gemma-3-4b-it"
local_dir="/tmp"  # finds: whole-folder-uploaded
gcs_prefix="gemma-3-4b-it"
hf download "$repo_id" --revision "$COMMIT" --local-dir /tmp  # finds: whole-folder-uploaded
gcloud storage rsync -r "$local_dir" "gs://$BUCKET/$gcs_prefix"  # finds: whole-folder-uploaded
