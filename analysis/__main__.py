"""Make the notebooks: `python -m analysis` executes each text source and writes it, with what it shows, as .ipynb.

The settings in a source are those of the records in experiments/, so that the same records give the same notebooks.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parent
SOURCES = sorted(path for path in FOLDER.glob("*.py") if not path.name.startswith("_"))


def read_source(path: Path) -> NotebookNode:
    """Return a text source as a notebook without outputs: ids by position, nothing of the environment."""
    notebook = jupytext.read(path)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells, start=1):
        cell.id = f"{path.stem}-{number}"
    return notebook


def write_notebook(path: Path) -> Path:
    """Execute a text source beside itself and write the notebook; return its path."""
    notebook = read_source(path)
    where = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, kernel_name="python3", resources=where, timeout=600, record_timing=False).execute()
    notebook.metadata.language_info = {"name": "python"}  # the kernel has written its version there
    target = path.with_suffix(".ipynb")
    nbformat.write(notebook, target)
    return target


def main(names: Sequence[str]) -> int:
    """Write the notebooks that are named, or all, and return the exit status."""
    for path in SOURCES:
        if not names or path.stem in names:
            target = write_notebook(path)
            print(f"{target.relative_to(FOLDER.parent)}, {target.stat().st_size / 1024:.0f} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
