"""One page per run, `report.html`, that shows everything: numbers, figures, and every sample with its thought.

`samples.py` reads the artifacts, `page.py` writes the page from them and from `page.html`, `style.css`, `script.js`.
"""
