"""Names that act as something else where nobody looks, one list: each place that shows names is tried with it."""

#: No two are the same; lone surrogates and NUL, which no file of instructions can hold, are not among them.
NAMES = (
    # Markup of rich, of matplotlib, of HTML, of Markdown, of LaTeX, of Python's and Hydra's formats.
    *("[/x]", "[bold red]x[/]", "maths [hard]", "maths [easy]", ":smile:", "$\\frac{$", "$x$", "_hidden", "__init__"),
    *("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "&lt;b&gt;", "--><!--", "]]>", "</details>"),
    *("![x](http://example.org/x.png)", "[x](javascript:alert(1))", "`code`", "``", "*x*", "_x_", "~~x~~", "| a | b |"),
    *("http://example.org/x", "[x]: y", "---", "\\input{/etc/passwd}", "^^41", "a--b", "a\u2013b", "*[2ex]", "[2ex]"),
    *("%s %(x)s {x} ${y} $name", "${oc.env:HOME}", "\\x1b", "\\u202e", "C:\\users\\x41"),
    # Formulas of a spreadsheet.
    *('=HYPERLINK("http://example.org/?"&A1)', "+1+1", "-2+3", "@SUM(1)", "\t=1", " =1", "'=1", "\uff1d1", "a;=1"),
    # What steers a terminal, begins a line or turns it.
    *("\x1b[2J\x1b]0;title\x07", "\x9b31m", "\x7f", "a\rb", "a\nerror: forged", "a\x0bb", "a\u2028b", "a\u202eb\u202c"),
    # What looks the same.
    *("zero\u200bwidth", "zerowidth", "zero\ufeffwidth", "e\u0301", "\u00e9", "\u212b", "\u00c5", "a\u00a0b", "a b"),
    *(
        "a  b",
        "a_b",
        " a b",
        "a b ",
        "\u3164",
        "\u2800",
        "\u2665\ufe0f",
        "\u2665",
        "\u05d0\u05d1",
        "\u200f\u05d0\u05d1",
    ),
    *("\u6570\u5b66", "\u82f1\u8bed", "None", "null", "-", "1", "1.0", "true", "x" * 5000 + "1", "x" * 5000 + "2"),
)
