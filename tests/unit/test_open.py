"""Which module opens which scheme, and that none is imported before."""

from __future__ import annotations

import subprocess
import sys

import pytest

from penstock.errors import UsageError
from penstock.ref import parse_ref
from penstock.stores.base import Reader, Store
from penstock.stores.open import open_reader, open_store

KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}


@pytest.mark.parametrize("text", ["hf://org/name", "https://host/a", "http://host/a"])
def test_places_that_can_only_be_read_are_not_opened_for_writing(text: str) -> None:
    with pytest.raises(UsageError, match="cannot be written") as caught:
        open_store(parse_ref(text), env={})
    assert "gs://" in (caught.value.hint or "")


@pytest.mark.parametrize("text", ["/a/folder", "s3://bucket/prefix", "s3://anonymous@bucket/prefix"])
def test_store_is_opened_for_both(text: str) -> None:
    for opened in (open_store(parse_ref(text), env=KEYS), open_reader(parse_ref(text), env=KEYS)):
        assert isinstance(opened, Store)
        assert str(opened.ref) == text
        opened.close()


def test_http_is_opened_for_reading() -> None:
    reader: Reader = open_reader(parse_ref("https://host/a"), env={})
    assert str(reader.ref) == "https://host/a"
    assert not isinstance(reader, Store)


def test_opening_imports_no_sdk_of_another_place() -> None:
    code = (
        "import sys; from penstock.ref import parse_ref; from penstock.stores.open import open_store;"
        "open_store(parse_ref('/a'), env={});"
        "print([name for name in ('botocore', 'google.auth', 'azure', 'huggingface_hub') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_missing_library_is_said_with_the_command_that_installs_it() -> None:
    code = (
        "import sys; sys.modules['botocore'] = None\n"
        "from penstock.errors import MissingExtra; from penstock.ref import parse_ref\n"
        "from penstock.stores.open import open_store\n"
        "try: open_store(parse_ref('s3://bucket/a'), env={})\n"
        "except MissingExtra as error: print(error.hint)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "pip install 'penstock[s3]'"
