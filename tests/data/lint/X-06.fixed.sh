#!/bin/bash
set -euo pipefail
gcloud storage buckets add-iam-policy-binding "$BUCKET_URI" \
  --member "principal://iam.googleapis.com/projects/${PROJECT_NUMBER}/locations/global/workloadIdentityPools/${WORKLOAD_IDENTITY_POOL}/subject/ns/${NAMESPACE}/sa/${SERVICE_ACCOUNT}" \
  --role "roles/storage.objectUser"
