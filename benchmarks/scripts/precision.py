"""Policy value with tables and products in float32 and bfloat16, on the paper's instance.

    python -m benchmarks.scripts.precision [--num-steps 20000]

K = 10, `ca_pg_swr`, three seeds. The result is written after every row, so an interrupted script resumes.
"""

from __future__ import annotations

from functools import partial

from benchmarks.scripts.common import fill_rows, num_steps_given
from benchmarks.scripts.paper_instance import measure

DTYPES = (("float32", "float32"), ("float32", "bfloat16"), ("bfloat16", "bfloat16"))


def main() -> None:
    num_steps = num_steps_given(__doc__, 20_000)
    measures = {
        f"tables {table}, products {product}": partial(
            measure,
            {"estimator": "ca_pg_swr", "table_dtype": table, "product_dtype": product},
            num_steps,
        )
        for table, product in DTYPES
    }
    fill_rows("precision", measures, num_steps)


if __name__ == "__main__":
    main()
