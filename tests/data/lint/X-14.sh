#!/bin/bash
set -euo pipefail
gcloud container clusters create-auto ${CLUSTER_NAME} --project=${PROJECT_ID} --region=${REGION}  # finds: cleanup-incomplete
gcloud storage buckets add-iam-policy-binding ${BUCKET_URI} --member "$MEMBER" --role "roles/storage.objectViewer"  # finds: cleanup-incomplete
gcloud storage buckets anywhere-caches create gs://$BUCKET $ZONE  # finds: cleanup-incomplete
gcloud storage rm --recursive ${BUCKET_URI}
