"""The promises of `penstock.stores.base` in tests: one class that every store's test class inherits.

```python
class TestS3(StoreContract):
    differences = {"create_only_over_another": "this server ignores If-None-Match"}

    @pytest.fixture
    def env(self) -> Mapping[str, str]: ...   # what the store reads instead of the process's environment

    @pytest.fixture
    def ref(self) -> Ref: ...                 # a prefix of a bucket that exists, empty at each test
```

A store that `open_store` does not know overrides `open`. A place that can only be read inherits `ReaderContract` and
supplies `reader` and `content`. What differs is declared in `differences`: a test's name without `test_`, with its
parameter where only one differs (`cruel_key_put[hash]`), and the reason. A declared difference that is not there fails;
those that show only now and then go into `sometimes`.
"""

from penstock.testing.store_contract.moves import (
    begin,
    check_uploaded,
    part_bytes,
    read,
    send,
    send_all,
    send_and_finish,
)
from penstock.testing.store_contract.objects import ObjectContract
from penstock.testing.store_contract.places import PlaceContract
from penstock.testing.store_contract.reading import ReaderContract
from penstock.testing.store_contract.samples import CONTENT, CRUEL_KEYS, make_bytes
from penstock.testing.store_contract.tickets import TicketContract
from penstock.testing.store_contract.uploads import UploadContract

__all__ = [
    "CONTENT",
    "CRUEL_KEYS",
    "ReaderContract",
    "StoreContract",
    "begin",
    "check_uploaded",
    "make_bytes",
    "part_bytes",
    "read",
    "send",
    "send_all",
    "send_and_finish",
]


class StoreContract(ObjectContract, UploadContract, TicketContract, PlaceContract):
    """What every place that can be written does. Supply `ref`, and `env` where it is not the process's."""
