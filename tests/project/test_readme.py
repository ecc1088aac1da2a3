"""The commands that README and how-to pages show are commands: every verb, flag, recipe and setting in them exists."""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import re
import shlex
from pathlib import Path

import pytest

import sciencessl
from sciencessl import cli
from sciencessl.config import RunConfig
from sciencessl.domains.galaxy.schema import SCHEMAS, load_schema
from sciencessl.evaluate.task_files import read_task
from sciencessl.evaluate.tasks import KINDS
from sciencessl.explanation import explain
from sciencessl.flags import given

ROOT = Path(__file__).parents[2]
DOMAIN_OF = {"sdss": "galaxy", "survey": "galaxy", "lung": "pathology", "slides": "pathology", "crawl": "web",
             "clothing": "web"}
"""Store of a page -> the domain that it is prepared for there; the first store of a command decides."""

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
STUDIED = [page for page in PAGES if page.with_suffix(".yaml").exists()]
"""Pages that the study script writes: `test_study` asks about their commands."""


def commands(*pages: Path) -> list[str]:
    """Lines of code blocks that start with our name."""
    texts = [page.read_text(encoding="utf-8") for page in pages]
    return [line for text in texts for block in re.findall(r"```\w*\n(.*?)```", text, re.S)
            for line in block.splitlines() if line.startswith("sciencessl ")]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[argparse.Namespace]:
    """Every command ends where its function would be called, and leaves what it was given here."""
    found: list[argparse.Namespace] = []
    for name, verb in cli.VERBS.items():
        monkeypatch.setitem(cli.VERBS, name, verb._replace(run=lambda args: found.append(args) or 0))
    return found


def test_there_are_commands_for_each_domain() -> None:
    text = "\n".join(commands(ROOT / "README.md"))
    assert all(f"prepare {domain} " in text and f"stores/{name}.zarr" in text for name, domain in DOMAIN_OF.items())


@pytest.mark.parametrize("command", dict.fromkeys(commands(*(page for page in PAGES if page not in STUDIED))))
def test_commands_of_the_pages_are_understood(
    command: str, parsed: list[argparse.Namespace], capsys: pytest.CaptureFixture[str]
) -> None:
    code = cli.run(shlex.split(command)[1:])
    assert code == 0, capsys.readouterr().err
    (args,) = parsed
    if args.verb == "pretrain":
        domain = ({"tiles": "pathology"} | DOMAIN_OF)[Path(args.data[0]).stem]
        settings = {name: value for name, value in given(args, RunConfig).items() if name not in ("data", "method")}
        assert explain(domain=domain, method=args.method, config=args.config, settings=settings | args.settings)


def test_a_command_that_does_not_exist_would_be_noticed(parsed: list[argparse.Namespace]) -> None:
    assert cli.run(["pretrain", "--data", "x", "--out", "y", "--minuets", "8"]) == 2
    assert cli.run(["transfer", "runs/byol", "--store", "x", "--out", "y"]) == 2
    assert not parsed


def snippets(language: str, *pages: Path) -> list[str]:
    """Code blocks of a language."""
    texts = [page.read_text(encoding="utf-8") for page in pages]
    return [block for text in texts for block in re.findall(rf"```{language}\n(.*?)```", text, re.S)]


def check_python(text: str) -> None:
    """Every import of ours can be made, and every call of `sciencessl.NAME` takes the arguments given to it."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sciencessl"):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
        if isinstance(node, ast.Import):
            _ = [importlib.import_module(alias.name) for alias in node.names if alias.name.startswith("sciencessl")]
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("sciencessl."):
            function = getattr(sciencessl, ast.unparse(node.func).removeprefix("sciencessl."))
            inspect.signature(function).bind(*node.args, **{str(word.arg): word.value for word in node.keywords})


# A defect elsewhere: a class was renamed in one package, and the examples of another could not be imported any more.
@pytest.mark.parametrize("text", snippets("python", *PAGES, *sorted(ROOT.glob("domains/*/README.md"))))
def test_python_of_the_pages_is_ours(text: str) -> None:
    check_python(text)


def test_python_that_is_not_ours_would_be_noticed() -> None:
    with pytest.raises(AssertionError, match="GalaxyViewz"):
        check_python("from sciencessl.domains.galaxy.views import GalaxyViewz")
    with pytest.raises(ImportError):
        check_python("import sciencessl.domains.galaxies")
    with pytest.raises(AttributeError, match="pretrian"):
        check_python("import sciencessl\nsciencessl.pretrian('s', 'r')")
    with pytest.raises(TypeError, match="minutes"):
        check_python("import sciencessl\nsciencessl.pretrain('s', 'r', minutes=8)")


def test_schemas_of_the_pages_are_schemas(tmp_path: Path) -> None:
    texts = snippets("yaml", ROOT / "docs/reference/schemas.md")
    found = {}
    for number, text in enumerate(texts):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text, encoding="utf-8")
        found[load_schema(path).name] = load_schema(path)
    assert set(found) == {"my-survey", "my-second", "all-of-them"}
    assert found["my-survey"].aliases["t12_ring_a41_no_count"] == "ring-mine_no"
    assert [len(schema.columns) for schema in found.values()] == [7, 35, 109]


def test_the_table_of_schemas_is_right() -> None:
    text = (ROOT / "domains/galaxy/README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:`[\w-]+`(?:, )?)+) \| [^|]+ \| (\d+), (\d+)", text, re.M)
    table = {name: tuple(map(int, counts)) for names, *counts in rows for name in names[1:-1].split("`, `")}
    assert table == {name: (len(schema.questions), len(schema.columns)) for name, schema in SCHEMAS.items()}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("domains/*/README.md"))], ids=str)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, heading = target.partition("#")
        found = page.parent / path if path else page
        assert found.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.M)
            assert heading in [re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles]


def kinds_of_task() -> dict[str, str]:
    """First word of each YAML example in the explanation of few-label curves -> the example."""
    text = (ROOT / "docs/explanation/few_labels.md").read_text(encoding="utf-8")
    return {block.split()[1].strip(":"): block for block in re.findall(r"```yaml\n(.*?)```", text, re.S)}


def test_examples_of_tasks_are_tasks_of_each_kind(tmp_path: Path) -> None:
    found = {}
    for name, text in kinds_of_task().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        found[name] = read_task(tmp_path / name).kind
    assert sorted(found.values()) == sorted(KINDS)
