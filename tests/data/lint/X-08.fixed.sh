#!/bin/bash
set -euo pipefail
export BUCKET_NAME=${PROJECT_ID}-hf-gcs-transfer
export BUCKET_URI=gs://${BUCKET_NAME}
gcloud storage buckets create "$BUCKET_URI" --project="$PROJECT_ID" --location="$REGION" \
  --uniform-bucket-level-access --enable-hierarchical-namespace --public-access-prevention
