#!/bin/bash
set -euo pipefail
gcloud storage buckets add-iam-policy-binding "gs://$BUCKET" \
  --member="principal://iam.googleapis.com/projects/$PROJECT_NUMBER/locations/global/workloadIdentityPools/$GCP_PROJECT_ID.svc.id.goog/subject/ns/$K8S_NAMESPACE/sa/$K8S_SERVICE_ACCOUNT" \
  --role="roles/storage.objectViewer"
