"""Published test vectors, read where they are and not kept here.

They lie in ``../shared/vectors`` beside the repository, or where ``JIRANI_VECTORS`` says; tests
that read them are skipped without them. What the repository generates for itself is read by
``own_vectors`` and always there.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

_REPOSITORY = Path(__file__).parents[2]


def published_vectors(name: str) -> Any:
    """Return the content of one published JSON file, such as ``js/ildcp-hex.json``."""
    beside = _REPOSITORY.parent / "shared" / "vectors"
    folder = Path(os.environ.get("JIRANI_VECTORS", beside))
    if not folder.is_dir():
        pytest.skip("the published vectors are not at hand (JIRANI_VECTORS names their folder)")
    return json.loads((folder / name).read_text())


def own_vectors(name: str) -> Any:
    """Return the content of a generated JSON file of ``tests/conformance``."""
    return json.loads((_REPOSITORY / "tests" / "conformance" / name).read_text())
