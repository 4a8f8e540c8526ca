"""A Google Cloud Storage on loopback: both APIs, held to the real clients by `tests/contract/test_gcs_emulator.py`.

    with GcsEmulator() as gcs:
        gcs.create_bucket("models")
        env = {"STORAGE_EMULATOR_HOST": gcs.url}

It knows what moving files takes: buckets, objects, listings, ranges, preconditions, media, multipart and resumable
uploads, compose, copy and rewrite, and XML multipart uploads. It keeps no noncurrent generations and knows no ACL,
encryption key, retention or lifecycle.
"""

from penstock.testing.gcs.emulator import GcsEmulator

__all__ = ["GcsEmulator"]
