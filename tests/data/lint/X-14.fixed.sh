#!/bin/bash
set -euo pipefail
gcloud container clusters create-auto "$CLUSTER_NAME" --project="$PROJECT_ID" --region="$REGION"
gcloud storage buckets add-iam-policy-binding "$BUCKET_URI" --member "$MEMBER" --role "roles/storage.objectViewer"
gcloud storage buckets anywhere-caches create "$BUCKET_URI" "$ZONE"

gcloud storage buckets anywhere-caches disable "$BUCKET/$ZONE"
gcloud storage buckets remove-iam-policy-binding "$BUCKET_URI" --member "$MEMBER" --role "roles/storage.objectViewer"
gcloud storage rm --recursive "$BUCKET_URI"
gcloud container clusters delete "$CLUSTER_NAME" --project="$PROJECT_ID" --region="$REGION" --quiet
