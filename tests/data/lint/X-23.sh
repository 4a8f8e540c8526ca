#!/bin/bash
set -euo pipefail
# Grant the GCP Service Account access to your GCS bucket:
gcloud projects add-iam-policy-binding ${GCP_PROJECT_ID} \
  --member="serviceAccount:${GCP_SERVICE_ACCOUNT}@${GCP_PROJECT_ID}.iam.gserviceaccount.com" \
  --role="roles/storage.objectViewer"
# finds-in: role-on-project 4
