"""JSON of files that lie on a disk, where anything may have become of them.

What it means, and what is done where it is damaged, is the reader's.
"""

import json
from typing import Any


def parse_json(content: str | bytes) -> Any:  # noqa: ANN401 - parsed JSON
    """Parse JSON.

    Raises:
        ValueError: it is none, or nested so deep that Python cannot follow.
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
