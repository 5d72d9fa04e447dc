"""Pages that show everything, a file each: `report.html` of a run, and two policies side by side.

`samples.py` reads a run's artifacts, `report.py` and `beside.py` write a page each from a template of their name;
`shell.py` has what both are made of, with `style.css` and the script in three parts: `parts.js`, `sides.js`, the view
"side by side", and `script.js`, the browser of samples.
"""
