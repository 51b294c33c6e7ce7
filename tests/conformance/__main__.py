"""``python -m tests.conformance`` makes the tables of CONFORMANCE.md; ``--check`` compares."""

from __future__ import annotations

import sys
import warnings

from tests.conformance.statement import STATEMENT, generate


def main() -> int:
    """Write the file, or return 1 when it is not what the code says."""
    warnings.simplefilter("ignore", UserWarning)  # pydicom's, about odd sample values
    before = STATEMENT.read_text("utf-8")
    after = generate(before)
    if "--check" in sys.argv[1:]:
        if before != after:
            print("CONFORMANCE.md differs from the code: python -m tests.conformance")
        return int(before != after)
    STATEMENT.write_text(after, "utf-8")
    print("CONFORMANCE.md", "is as it was" if before == after else "was made anew")
    return 0


if __name__ == "__main__":
    sys.exit(main())
