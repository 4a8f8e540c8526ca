"""KServe: a storage container that pulls by penstock, for those whose servers are InferenceServices."""

from __future__ import annotations

from penstock.deploy.render.identity import metadata
from penstock.deploy.render.images import penstock_image
from penstock.deploy.render.inputs import Context
from penstock.deploy.render.job import CONTAINED, job_resources
from penstock.deploy.render.objects import Container, Manifest


def render_kserve(context: Context) -> list[Manifest]:
    """For URIs below the bucket, or below what the settings name; KServe's own container keeps the rest."""
    kserve = context.settings.kserve
    if not kserve.enabled:
        return []
    ref = context.weights
    prefixes = kserve.prefixes or (f"{ref.scheme}://{ref.place}",)
    container: Container = {
        "name": "storage-initializer",
        "image": penstock_image(context),
        # KServe gives the URI and the folder as arguments; the shell makes options of them.
        "command": ["sh", "-c", 'exec penstock pull "$0" --to "$1" --progress log'],
        "resources": job_resources(context),
        "securityContext": CONTAINED,
    }
    return [
        {
            "apiVersion": "serving.kserve.io/v1alpha1",
            "kind": "ClusterStorageContainer",
            "metadata": metadata(context, context.cluster_name("pull"), cluster=True),
            "spec": {
                "container": container,
                "supportedUriFormats": [{"prefix": prefix} for prefix in prefixes],
                "workloadType": "initContainer",
            },
        }
    ]
