"""Runs the tutorial notebook, and turns it into a page.

    python docs/tutorial_page.py docs/tutorial.ipynb     run the cells in order and store what they print

The notebook prints text only, so that running its cells needs no Jupyter.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any


def execute(notebook: dict[str, Any]) -> list[str]:
    """Run the code cells in order, in one namespace.

    Returns:
        What each code cell printed.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    printed = []
    for number, cell in enumerate(code_cells(notebook)):
        out = io.StringIO()
        code = compile("".join(cell["source"]), f"<cell {number}>", "exec")
        with contextlib.redirect_stdout(out):
            exec(code, namespace)  # noqa: S102 (our own notebook)
        printed.append(out.getvalue())
    return printed


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """The code cells, in order."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def store(notebook: dict[str, Any], printed: list[str]) -> None:
    """Put what the cells printed into the notebook."""
    for number, (cell, text) in enumerate(zip(code_cells(notebook), printed, strict=True), 1):
        stream = {"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)}
        cell["execution_count"] = number
        cell["outputs"] = [stream] if text else []


def to_markdown(notebook: dict[str, Any]) -> str:
    """The cells as one page: text, code, and what the code printed when it was last run."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        printed = "".join(line for output in cell.get("outputs", []) for line in output.get("text", []))
        if printed:
            parts.append(f'```text title="prints"\n{printed.rstrip()}\n```')
    return "\n\n".join(parts) + "\n"


def main(path: Path) -> None:
    """Run the notebook at a path and store its output."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    store(notebook, execute(notebook))
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
