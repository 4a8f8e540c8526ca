#!/bin/bash
set -euo pipefail
export SERVICE_ACCOUNT="gcs-access"
gcloud storage buckets add-iam-policy-binding "gs://$BUCKET" --member "principal://iam.googleapis.com/projects/$PROJECT_NUMBER/locations/global/workloadIdentityPools/$PROJECT_ID.svc.id.goog/subject/ns/default/sa/$SERVICE_ACCOUNT" --role roles/storage.bucketViewer
gcloud storage buckets add-iam-policy-binding "gs://$BUCKET" --member "principal://iam.googleapis.com/projects/$PROJECT_NUMBER/locations/global/workloadIdentityPools/$PROJECT_ID.svc.id.goog/subject/ns/default/sa/$SERVICE_ACCOUNT" --role roles/storage.objectViewer
