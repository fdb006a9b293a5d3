"""Requests that schemathesis makes from the description of the API; run by `fuzz_service.py` in another environment.

    PYTHON fuzz_schema.py URL SECONDS SEED

Prints one line of JSON: how many answers had which status, and the requests whose answer was a 5xx without a reason
to come back (`Retry-After`). Needs schemathesis alone, which is no dependency of this project.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings

BATCH = 40


def main() -> None:
    """Ask until the time is over."""
    url, until, number = sys.argv[1], time.monotonic() + float(sys.argv[2]), int(sys.argv[3])
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    statuses: Counter[str] = Counter()
    faults: list[str] = []
    modes = list(schemathesis.GenerationMode)
    operations = [result.ok() for result in schema.get_all_operations()]
    while time.monotonic() < until:
        for operation in operations:
            for mode in modes:
                number += 1
                try:
                    strategy = operation.as_strategy(generation_mode=mode)
                    batch(strategy, url, until, number, statuses, faults)
                except Exception as error:  # noqa: BLE001 (an operation that cannot be damaged, or that has no parameters)
                    statuses[f"skipped: {type(error).__name__}"] += 1
                if time.monotonic() > until:
                    print(json.dumps({"statuses": statuses, "faults": faults[:20], "n_faults": len(faults)}))
                    return


def batch(strategy, url, until, number, statuses, faults):
    """Ask some requests of one operation."""

    @seed(number)
    @settings(
        max_examples=BATCH,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def ask(case):
        if time.monotonic() > until:
            return
        try:
            answer = case.call(base_url=url, timeout=100)
        except requests.RequestException as error:
            statuses[type(error).__name__] += 1
            return
        statuses[str(answer.status_code)] += 1
        if answer.status_code >= 500 and not (answer.status_code == 503 and "retry-after" in answer.headers):
            faults.append(f"{answer.status_code} {case.as_curl_command()[:400]} {answer.text[:300]}")

    ask()


if __name__ == "__main__":
    main()
