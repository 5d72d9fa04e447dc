"""The documents are true: every command composes or parses, names and links resolve, README is short and complete."""

import ast
import functools
import json
import re
import shlex
import subprocess
import sys
import tokenize
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from hydra import compose
from plugins import marks

import tpo.store.gc
import tpo.store.verify
from tpo.config.build import to_config
from tpo.config.check import check, check_entry, check_evaluate, check_export, check_use
from tpo.config.compose import check_config_dir, compose_config, composing
from tpo.config.fields import ConfigError
from tpo.config.hardware import resolve_hardware
from tpo.config.schema import (
    AgreementConfig,
    ChatConfig,
    Config,
    EvaluateConfig,
    ExportConfig,
    ServeConfig,
    register,
)
from tpo.judge.protocol import Candidates
from tpo.plan.doctor import main as doctor
from tpo.results.__main__ import make_parser
from tpo.results.read import read_run
from tpo.results.run_tables import headline_table
from tpo.results.text_table import print_tables

REPOSITORY = Path(__file__).parent.parent
README = REPOSITORY / "README.md"
PAGES = [
    README,
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "conf" / "README.md",
    REPOSITORY / "analysis" / "README.md",
    *sorted((REPOSITORY / "tpo").rglob("*.md")),
    # not LOG.md, whose entries are about the commits that they name
    *sorted(path for path in (REPOSITORY / "experiments").rglob("*.md") if path.name != "LOG.md"),
]
MANUALS = [
    path for path in PAGES if "experiments" not in path.parts or path == REPOSITORY / "experiments" / "README.md"
]
SETTINGS = sorted((REPOSITORY / "conf").rglob("*.yaml"))
ENTRIES: dict[str, tuple[type[Any], Callable[[Any], None]]] = {
    "run": (Config, check),
    "plan": (Config, check),
    "doctor": (Config, check),
    "evaluate": (EvaluateConfig, check_evaluate),
    "evaluate.agreement": (AgreementConfig, check_entry),
    "chat": (ChatConfig, check_use),
    "serve": (ServeConfig, check_use),
    "export": (ExportConfig, check_export),
}
PARSERS = {"results": make_parser, "verify": tpo.store.verify.make_parser, "gc": tpo.store.gc.make_parser}
NOT_HERE = ("which is not installed", "there is no file")  # of a machine that follows a document
FLAGS = {
    "-m",
    "--help",
    "--cfg",
    "--config-dir",
    "--stages",
    "--json",
    "--card",
    "--price",
}
TAKES_VALUE = {"--cfg", "--config-dir", "--json", "--card", "--price"}
WITH_NAMES = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
WRITTEN = {"report.html"}  # by a run
PLACEHOLDERS = {"<Hub name or directory>": "some/model", "<run>": "quickstart-a99935a69f87"}
register()


class Command(NamedTuple):
    """A command `python -m tpo.<entry> <words>` and the first document that has it."""

    entry: str
    words: str
    path: str


def documented_commands() -> list[Command]:
    found = {}
    for path in [*PAGES, *SETTINGS]:
        text = path.read_text(encoding="utf-8")
        for old, new in PLACEHOLDERS.items():
            text = text.replace(old, new)
        for match in re.finditer(r"python -m tpo\.([\w.]*\w)((?: [^`\n]*)?)", text):
            words = re.split(r"\s+#|(?<=\S)\s{2,}", match.group(2))[0].strip()
            command = Command(match.group(1), words, path.relative_to(REPOSITORY).as_posix())
            found.setdefault(command[:2], command)
    return sorted(found.values())


def own_files() -> dict[str, str]:
    """The YAML files of a reader's own that documents show, by path; a path stands in the lines before the block."""
    found = {}
    for path in PAGES:
        pattern = r"`(my_conf/[\w/]+\.yaml)`((?!```)[\s\S])*?```yaml\n(?P<text>[\s\S]*?)```"
        for match in re.finditer(pattern, path.read_text(encoding="utf-8")):
            assert match.group(1) not in found, f"{path} shows {match.group(1)} too"
            found[match.group(1)] = match["text"]
    return found


def split_flags(words: str) -> tuple[list[str], dict[str, str]]:
    """A command's overrides, those of the first job where it is a sweep, and its flags with their values."""
    rest = iter(shlex.split(words))
    overrides, flags = [], {}
    for word in rest:
        if word.startswith("-"):
            flags[word] = next(rest) if word in TAKES_VALUE else ""
        else:
            overrides.append(word)
    if "-m" in flags:
        overrides = [re.sub(r",.*", "", word) for word in overrides]
    return overrides, flags


MY_MODULE = """
from own_classes import Echo as MyEngine, LastLine as MyThought, Shortest as MyPairs, Shouting as MyEval, Sums


class MyJudge:
    def __init__(self, threshold=0.0):
        self.threshold = threshold

    def score(self, candidates):
        return []


class MyPrompts(Sums):
    def __init__(self, upto=3):
        super().__init__(upto)
"""


@pytest.fixture(scope="module", autouse=True)
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the classes and YAML files of a reader's own that the documents' commands name."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "my_module.py").write_text(MY_MODULE)
    for name, text in {**own_files(), "my_conf/judge/mine.yaml": "_target_: my_module.MyJudge\n"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield folder
    sys.modules.pop("my_module", None)


COMMANDS = documented_commands()
HYDRA_COMMANDS = [command for command in COMMANDS if command.entry in ENTRIES]
OTHER_COMMANDS = [command for command in COMMANDS if command.entry not in ENTRIES]


def test_commands_are_found_in_every_document_that_has_some() -> None:
    assert len(HYDRA_COMMANDS) >= 50
    assert len({command.path for command in HYDRA_COMMANDS}) >= 20
    assert {command.entry for command in COMMANDS} == {*ENTRIES, *PARSERS}
    assert any("-m" in split_flags(command.words)[1] for command in HYDRA_COMMANDS)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, marks=marks(split_flags(command.words)[0]), id=f"{command.entry} {command.words}")
        for command in HYDRA_COMMANDS
    ],
)
def test_documented_command_composes_and_obeys_the_rules(command: Command, own_folder: Path) -> None:
    overrides, flags = split_flags(command.words)
    assert flags.keys() <= FLAGS
    entry, check_settings = ENTRIES[command.entry]
    own = own_folder / flags["--config-dir"] if "--config-dir" in flags else None
    with composing(own):
        composed = compose(entry.config_name, overrides=resolve_hardware(overrides))
    if not overrides:  # a mention of the command, or it asks for help
        return
    try:
        check_settings(to_config(entry, composed))
    except ConfigError as error:
        if not any(reason in str(error) for reason in NOT_HERE):
            raise


@pytest.mark.parametrize(
    "command", [pytest.param(command, id=f"{command.entry} {command.words}") for command in OTHER_COMMANDS]
)
def test_documented_command_parses(command: Command) -> None:
    PARSERS[command.entry]().parse_args(shlex.split(command.words))


def test_presets_name_their_command() -> None:
    for path in (REPOSITORY / "conf" / "experiment").glob("*.yaml"):
        assert f"experiment={path.stem}" in path.read_text(), f"{path.name} does not say how to run it"


def test_make_targets_exist() -> None:
    listed = subprocess.run(["make", "help"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    targets = {line.split()[0] for line in listed.splitlines()}
    named = set()
    for path in [*PAGES, *SETTINGS, *(REPOSITORY / "tpo").rglob("*.py")]:
        for match in re.finditer(r"(?:^|`)make ((?:[a-z-]+ ?)+)", path.read_text(encoding="utf-8"), re.MULTILINE):
            named |= set(match.group(1).split())
    assert {"quickstart", "test", "setup", "lint", "type", "help", "bench", "figures", "resolve"} <= named
    assert named <= targets


def test_markers_by_which_make_finds_files_are_given_in_these_files() -> None:
    for name in re.findall(r"\$\(call marked,(\w+)\)", (REPOSITORY / "Makefile").read_text(encoding="utf-8")):
        given = [path.name for path in (REPOSITORY / "tests").rglob("*.py") if f"mark.{name}" in path.read_text()]
        assert given and all(file.startswith("test_") for file in given), name


def links(path: Path) -> Iterator[str]:
    """The targets of a page's links that lead into the repository."""
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            yield target


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_links_resolve(path: Path) -> None:
    for target in links(path):
        name, _, anchor = target.partition("#")
        found = (path.parent / name) if name else path
        assert found.exists(), f"{path}: {target}"
        assert not anchor or anchor in anchors(found), f"{path}: {target}"


@functools.cache
def names_of(path: Path) -> set[str]:
    """What a module defines at its top level."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        if isinstance(node, ast.ImportFrom) and path.name == "__init__.py":
            names |= {alias.name for alias in node.names}
        for target in node.targets if isinstance(node, ast.Assign) else []:
            names |= {name.id for name in ast.walk(target) if isinstance(name, ast.Name)}
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def is_in_package(dotted: str) -> bool:
    """Whether `tpo.a.b.C` names a package, a module, or what one defines; nothing is imported."""
    place = REPOSITORY
    parts = dotted.split(".")
    while parts:
        name, *rest = parts
        if (place / name).is_dir():
            place, parts = place / name, rest
            continue
        module = place / f"{name}.py"
        if module.exists():
            return not rest or rest[0] in names_of(module)
        return any(name in names_of(place / file) for file in ("__init__.py", "__main__.py") if (place / file).exists())
    return True


@pytest.mark.parametrize("path", [*PAGES, *SETTINGS], ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_paths_and_modules_that_a_document_names_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r"(?<![\w/.])(?:tpo|conf|tests|experiments|analysis)/[\w/.-]*\w/?", text):
        assert (REPOSITORY / name).exists(), f"{path.name}: {name}"
    for dotted in re.findall(r"(?<![\w/.])tpo(?:\.\w+)+", text):
        assert is_in_package(dotted), f"{path.name}: {dotted}"
    for command in re.findall(r"python -m (experiments[\w.]*)", text):
        assert find_spec(command) is not None, f"{path.name}: {command}"


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "tpo").rglob("*.py")), ids=lambda path: path.relative_to(REPOSITORY).as_posix()
)
def test_modules_that_the_code_names_exist(path: Path) -> None:
    with path.open("rb") as file:
        texts = [token.string for token in tokenize.tokenize(file.readline) if token.type in WITH_NAMES]
    for text in texts:
        for dotted in re.findall(r"(?<![\w/.])tpo(?:\.\w+)+", text):
            assert is_in_package(dotted), f"{path}: {dotted}"
        for name in re.findall(r"(?<![\w/.<>])(?:tpo|conf|tests|experiments|analysis)/[\w/.-]*\w", text):
            assert (REPOSITORY / name).exists(), f"{path}: {name}"


@pytest.mark.parametrize(
    "path",
    sorted((REPOSITORY / "tpo").rglob("__init__.py")),
    ids=lambda path: path.parent.relative_to(REPOSITORY).as_posix(),
)
def test_package_explains_its_files(path: Path) -> None:
    explained = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert explained is not None
    assert 5 <= len(explained.splitlines()) <= 25 or path.parent.parent.name != "tpo"
    for name in re.findall(r"[\w./]+\.(?:py|md|html|css|js)\b|\b\w+/(?= )", explained):
        assert (path.parent / name).exists() or (REPOSITORY / name).exists() or name in WRITTEN, f"{path}: {name}"


def test_readme_is_short() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 210


@pytest.mark.parametrize("path", MANUALS, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_lines_are_short_outside_tables_and_links(path: Path) -> None:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.startswith("|"):
            assert len(re.sub(r"https?://\S+", "", line)) <= 120, f"{path}:{number}"


def test_readme_lists_each_room_once() -> None:
    rooms = README.read_text(encoding="utf-8").split("## The rooms")[1].split("```")[1]
    listed = [line.split()[0] for line in rooms.strip().splitlines()]
    entries = (REPOSITORY / "tpo").iterdir()
    expected = [
        f"tpo/{path.name}" + ("/" if path.is_dir() else "") for path in entries if not path.name.startswith("__")
    ]
    assert sorted(listed) == sorted(expected)
    assert len(listed) <= 21


def test_readme_links_each_manual_once() -> None:
    linked = [target.partition("#")[0] for target in links(README)]
    manuals = [path.relative_to(REPOSITORY).as_posix() for path in MANUALS if path != README]
    assert {name: linked.count(name) for name in manuals} == dict.fromkeys(manuals, 1)


def test_readme_shows_the_run_that_is_on_record(capsys: pytest.CaptureFixture[str]) -> None:
    """What the README says that a quickstart printed is what the run with its seed, which is kept, says."""
    shown = re.findall(r"```text\n(quickstart: .*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    kept = [read_run(path) for path in sorted((REPOSITORY / "experiments" / "paper_claims" / "kept").glob("*"))]
    quickstarts = [run for run in kept if run.summary["seed"] == 0 and run.summary["thought"] == "prefilled"]
    assert len(shown) == min(1, len(quickstarts))
    if shown:
        print_tables(headline_table(quickstarts[0].summary))
        printed = [line.rstrip() for line in capsys.readouterr().out.strip().splitlines()]
        assert [line.rstrip() for line in shown[0].strip().splitlines()] == printed


def test_judge_in_the_manual_scores() -> None:
    text = (REPOSITORY / "tpo" / "judge" / "README.md").read_text(encoding="utf-8")
    namespace: dict[str, Any] = {}
    exec(text.split("```python")[1].split("```")[0], namespace)
    (found,) = namespace["MyJudge"]().score([Candidates("Say hello.", ("Hello.", "Hello? Why?"))])
    assert [judgement.value for judgement in found] == [0.0, -2.0]


def test_evaluation_in_the_manual_measures(tmp_path: Path) -> None:
    text = (REPOSITORY / "tpo" / "evaluate" / "README.md").read_text(encoding="utf-8")
    namespace: dict[str, Any] = {}
    exec(text.split("```python")[1].split("```")[0], namespace)
    rows = [SimpleNamespace(response=response) for response in ("LOUD", "A", "quiet", None)]
    answers = SimpleNamespace(rows=lambda kind: iter(rows))
    steps = SimpleNamespace(policy=None, prompts=list, answers=lambda policy, prompts: answers)
    assert namespace["MyEval"](letters=3).measure(steps, tmp_path) == {"num_answers": 2, "num_loud": 1}


def test_files_of_one_s_own_that_documents_show_are_fit_to_be_searched(own_folder: Path) -> None:
    shown = {name.split("/", 1)[1] for name in own_files()}
    assert shown == {"experiment/mine.yaml", "thought/mine.yaml", "eval/mine.yaml", "hydra/launcher/mine.yaml"}
    check_config_dir(own_folder / "my_conf")
    composed = compose_config(Config, ["experiment=mine", "thought=mine"], config_dir=own_folder / "my_conf")
    assert (composed.num_iterations, composed.sample.max_thought_tokens) == (3, 64)
    assert (composed.thought.name, composed.thought.response_delimiter) == ("mine", "Response:")
    assert "{instruction}" in composed.thought.prompt
    evaluation = compose_config(EvaluateConfig, ["policy=seed", "eval=mine"], config_dir=own_folder / "my_conf").eval
    assert (evaluation.kind, evaluation.arguments) == ("custom", {"letters": 3})


def machine_rows() -> list[list[str]]:
    """The rows of the table of what a machine takes."""
    text = (REPOSITORY / "conf" / "README.md").read_text(encoding="utf-8")
    lines = text.split("## What a machine takes")[1].split("###")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    return [[row[0].strip("`").removeprefix("python -m tpo.doctor "), *row[1:]] for row in rows]


@pytest.mark.parametrize("row", [pytest.param(row, id=row[0]) for row in machine_rows()])
def test_what_a_machine_takes_is_what_the_doctor_says(
    row: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)  # nothing is here yet
    words, *cells = row
    folders = [f"{name}={tmp_path}" for name in ("artifacts_dir", "runs_dir")]
    assert doctor([*shlex.split(words), *folders, "--json", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    low, high = found["hours"]
    memory, disk = max(need["total"] for need in found["memory"]), sum(part["gib"] for part in found["disk"])
    digits = 0 if high >= 20 else 1
    assert cells == [str(found["num_cards"]), f"{memory:.1f}", f"{low:.{digits}f} to {high:.{digits}f}", f"{disk:,.0f}"]
