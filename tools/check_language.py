"""Checks the words of code, help texts and documentation against the rules of CONTRIBUTING.md.

    python tools/check_language.py              every text file that git tracks or would track
    python tools/check_language.py PATH...      some files or folders
    python tools/check_language.py --counts     findings by file, and by rule

Three rules, each printed as `file:line: word: suggestion`; the exit status is 1 when anything is found:

words       No word of `WORDS`, in names of files, identifiers (parts of them too), strings, comments and
            prose, also across the end of a line. `ALLOWED` lists the contexts in which one is right.
openings    No docstring, description of an argument or help text starts with a word of `OPENINGS`.
flags       Below the command line, messages name arguments. No `--flag` stands in the library.

To forbid a word, add a line to `WORDS`; to allow a use of it, add a line to `ALLOWED` and say why.
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Word(NamedTuple):
    """A word or phrase in all its forms, separated by `|`, and what to write instead."""

    forms: str
    suggestion: str
    only: tuple[str, ...] = ("*",)
    """Patterns of the paths where it is a fault."""


class Allowed(NamedTuple):
    """A use that is right: forms of the word, a pattern of its surroundings, and of paths."""

    forms: str
    context: str
    """Regular expression, searched in the line's text from 60 characters before the word to 60 after."""
    only: tuple[str, ...] = ("*",)


_CHECKSUMS = (
    "rankpg/cli/*",
    "rankpg/data/*",
    "rankpg/environments/*",
    "rankpg/export/*",
    "rankpg/online/*",
    "rankpg/runs/storage/*",
    "tests/environments/*",
    "tests/export/*",
    "tests/online/*",
    "tests/runs/*",
    "docs/data.md",
    "docs/export.md",
    "docs/long_runs.md",
    "docs/examples/serve.py",
    "README.md",
)
_CODE = ("rankpg/*", "benchmarks/*", "tests/*")

WORDS = (
    # verbs
    Word("answer|answers|answered|answering", "return, returns"),
    Word("tell|tells|told|telling|teller", "say, report, return; feedback (online)"),
    Word("ask|asks|asked|asking", "request, query, require; evaluate, recommend"),
    Word("mend|mends|mended|mending", "fix, correct"),
    Word("judge|judges|judged|judging", "evaluate, assess"),
    Word("forget|forgets|forgot|forgotten", "discard, drop"),
    # metaphors
    Word("door|doors", "validation; export"),
    Word("room|rooms", "module, folder; space"),
    Word("house|houses", "package, code", only=("rankpg/*", "benchmarks/*", "docs/*", "README.md")),
    Word("station|stations", "component"),
    Word("ear|ears", "reader, receiver"),
    Word("mouth|mouths", "writer, sender"),
    Word("stretch|stretches", "running means, accumulator"),
    Word("fitness", "validation"),
    # the field's terms
    Word("sums", "checksums", only=_CHECKSUMS),
    Word("live", "online"),
    Word("laboratory|laboratories", "estimator lab"),
    Word("campaign|campaigns", "sweep"),
    Word("late stage|late stages", "re-ranker"),
    Word("reward transform|reward transforms", "advantage"),
    Word("listing", "sparse logits"),
    Word("write whole", "atomic_write"),
    Word("ESR|LSR", "retriever, re-ranker: the paper's words stand in the docs", only=_CODE),
    # idiom
    Word("is no|are no|was no|were no|be no", "is not a, has no"),
    Word("whoever|whomever", "the caller, the one that"),
    Word("nobody|noone", "no one; rephrase"),
    Word("so many", "that many, a number of"),
    Word("but for", "except for"),
    Word("less whatever|less what", "without"),
    Word("as asked for", "as requested"),
    Word("is not to be had|are not to be had|is to be had", "is unavailable"),
)

_BE = r"(is|are|was|were|be)"
_IS_NO = "is no|are no|was no|were no|be no"
_OLD_NAMES = "late stage|late stages|reward transform|reward transforms|laboratory|campaign|live"
_OLD_NAME = r"[\"' ](--)?(late[_-]stage|reward[_-]transform|laboratory|campaign|live)[\w-]*[\"'=: ]"

ALLOWED = (
    # "There is no such item" is idiomatic, and so is a comparison.
    Allowed(_IS_NO, rf"(?i)\bthere (may |can |must |would |will |should )?{_BE} no\b"),
    Allowed(
        _IS_NO, rf"\b{_BE} no (longer|more|less|fewer|later|earlier|better|worse|different|one)\b"
    ),
    Allowed(_IS_NO, rf"\b{_BE} no (larger|smaller|greater|higher|lower|faster|slower)\b"),
    # Two clauses that meet.
    Allowed("but for", r"\bbut for (loops|each|every|this|these|now|all)\b"),
    # TREC's word for documents with a relevance judgement.
    Allowed("judged", "judged", only=("rankpg/data/beir.py", "rankpg/environments/from_text.py")),
    Allowed("judged", "judged", only=("docs/text.md", "tests/environments/test_text.py")),
    Allowed("judged", "judged", only=("benchmarks/scripts/text_retrieval.py",)),
    Allowed("judged", "judged", only=("rankpg/data/diversity_qrels.py", "docs/list_rewards.md")),
    Allowed("judged", "judged", only=("rankpg/environments/from_subtopics.py",)),
    Allowed("judged", "judged", only=("rankpg/config/table_settings.py",)),
    Allowed("judged", "judged", only=("tests/environments/test_from_subtopics.py",)),
    Allowed("judged", "judged", only=("benchmarks/scripts/diverse_lists.py",)),
    # A language model answers a question.
    Allowed(
        "answer|answers|answered|answering",
        r"(?i)question|language model|\bLLM\b|prompt|passage",
        only=("notebooks/rag.py", "docs/text.md", "README.md", "docs/index.md"),
    ),
    # The folder of an online retriever's open draws, on disk.
    Allowed("live", r"[\"'`/]live[\"'`/]|\blive/(retriever\.json|<step>)"),
    # Keys in files of earlier or present versions: of a checkpoint's metadata, and of saved draws.
    Allowed("stretch", r"[\"']stretch[\"']", only=("rankpg/runs/storage/load.py", "tests/runs/*")),
    Allowed(
        "told",
        r"[\"']told[\"']",
        only=("rankpg/online/snapshot.py", "tests/online/test_retriever.py"),
    ),
    # Files on disk: the key of a manifest, a checkpoint's SHA256SUMS.
    Allowed("sums", r"[\"']sums[\"']|SHA256SUMS|\bSUMS\b|sha256sum"),
    Allowed("sums", r"(?i)\bsums (since|over|to|of (the )?(metrics|blocks|rewards|weights))\b"),
    Allowed("sums", r"\b(cumulative|float32|float64|block|partial)[ _]sums"),
    Allowed("listing", r"(?i)(directory|folder|file|code|program)s?[ _]listing|listing of"),
    # The paper's term, where the docs introduce it.
    Allowed("late stage", r"(?i)late-stage rank", only=("README.md", "docs/*", "notebooks/*")),
    # Names of earlier versions, which are refused with the new name.
    Allowed(_OLD_NAMES, _OLD_NAME, only=("rankpg/config/*", "rankpg/cli/*", "benchmarks/cli.py")),
    Allowed(
        "late stage", r"[\"']late_stage_regret[\"']", only=("rankpg/runs/storage/metrics_file.py",)
    ),
    Allowed(_OLD_NAMES, _OLD_NAME, only=("tests/config/*", "tests/cli/*", "tests/runs/*")),
)

OPENINGS = (
    "what", "whether", "which", "who", "whose", "of", "the same", "where", "how", "as", "like", "when", "why",
    "if", "so", "nothing", "it", "for", "from", "in", "by", "with", "without", "to", "at", "on", "after",
    "before", "between",
)  # fmt: skip
"""No docstring starts with one of these, in any case."""

HELP_OPENINGS = ("what", "which", "whose", "of", "as", "the same", "where", "how", "like")
"""No help text, and no description of an argument, starts with one of these; "whether to" may."""

FLAG_PATHS = ("rankpg/*.py", "benchmarks/*.py")
FLAGS_ALLOWED = ("rankpg/cli/*", "benchmarks/cli.py", "benchmarks/peers/*")
SCRIPTS = ("benchmarks/scripts/*.py",)
"""Commands with parsers of their own: flags may stand in their usage and in a call of `main([...])`."""

EXEMPT = (
    "tools/check_language.py",
    "tests/tools/test_check_language.py",
    "tools/behaviour.py",  # compares with commits that had the old names
    "*.ipynb",  # made from notebooks/*.py
    "benchmarks/results/*",  # written by the scripts that are checked
    "LICENSE",
)
TEXTS = ("*.py", "*.md", "*.html", "*.sh", "*.toml", "Makefile", "*/Makefile", ".ci/run", "*.cff")


class Fault(NamedTuple):
    """One finding."""

    path: str
    line: int
    word: str
    suggestion: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.word}: {self.suggestion}"


# --- words --------------------------------------------------------------------------------------

# Parts of identifiers and of prose; the prefix of a string is not a word.
_TOKEN = re.compile(r"(?!\b[fFrRbB]{1,2}[\"'])(?:[A-Z]?[a-z]+|[A-Z]+(?![a-z]))")
# What may stand between the words of a phrase: white space, "_", "-", and where a string or comment goes on.
_GAP = re.compile(r"[\s_\-#\"'()frb]*")


def _table() -> dict[str, list[tuple[tuple[str, ...], Word]]]:
    table: dict[str, list[tuple[tuple[str, ...], Word]]] = {}
    for word in WORDS:
        for form in word.forms.split("|"):
            parts = tuple(form.lower().split())
            table.setdefault(parts[0], []).append((parts, word))
    return table


_TABLE = _table()
_QUICK = re.compile("|".join(sorted(_TABLE)), re.IGNORECASE)


def faults_of_words(path: str, text: str) -> Iterator[Fault]:
    """Words of the table that are not allowed where they stand."""
    if not _QUICK.search(text):
        return
    starts = [0, *(m.end() for m in re.finditer("\n", text))]
    tokens = list(_TOKEN.finditer(text))
    lowered = [token.group().lower() for token in tokens]
    for at, first in enumerate(lowered):
        for parts, word in _TABLE.get(first, ()):
            if tuple(lowered[at : at + len(parts)]) != parts:
                continue
            run = tokens[at : at + len(parts)]
            gaps = (text[a.end() : b.start()] for a, b in pairwise(run))
            if not all(_GAP.fullmatch(gap) for gap in gaps) or not _matches(path, word.only):
                continue
            begin, end = run[0].start(), run[-1].end()
            form = " ".join(parts)
            if not _is_allowed(path, form, text, begin, end):
                yield Fault(path, bisect_right(starts, begin), form, word.suggestion)


def _is_allowed(path: str, form: str, text: str, begin: int, end: int) -> bool:
    around = re.sub(r"[\s#]+", " ", text[max(begin - 60, 0) : end + 60])
    before = len(re.sub(r"[\s#]+", " ", text[max(begin - 60, 0) : begin]))
    after = before + end - begin
    for allowed in ALLOWED:
        if form in allowed.forms.split("|") and _matches(path, allowed.only):
            for found in re.finditer(allowed.context, around):
                anywhere = allowed.only != ("*",)
                if anywhere or (found.start() <= after and found.end() >= before):
                    return True
    return False


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(path, pattern) for pattern in patterns)


# --- openings -----------------------------------------------------------------------------------


def _opening(text: str, openings: tuple[str, ...]) -> str | None:
    words = re.findall(r"[A-Za-z][\w'-]*|\S", text[:40])[:2]
    begin = " ".join(words).lower()
    if openings is HELP_OPENINGS and re.match(r"as (in|for) `", text):
        return None  # an argument of another function: "as in `sample`"
    return next((o for o in openings if begin == o or begin.startswith(f"{o} ")), None)


def faults_of_openings(path: str, text: str) -> Iterator[Fault]:
    """Docstrings, descriptions of arguments and help texts that start with a conjunction or a question."""
    if not path.endswith(".py"):
        return
    start_with = "start with a verb in the third person or a noun"
    for node in ast.walk(ast.parse(text, path)):
        for docstring in _docstrings(node):
            value = docstring.value
            if word := _opening(value.lstrip(), OPENINGS):
                yield Fault(path, docstring.lineno, f"docstring {word!r}", start_with)
            for offset, line in enumerate(value.splitlines()):
                described = re.match(r"\s+\*{0,2}[a-z_]\w*: (.*)", line)
                if described and (word := _opening(described.group(1), HELP_OPENINGS)):
                    said = f"argument {word!r}"
                    yield Fault(path, docstring.lineno + offset, said, "start with a noun")
        for help_text in _help_texts(node):
            said = re.sub(r"^[a-z_]+: ", "", help_text.value)  # "ratings: what a pair is worth"
            if word := _opening(said, HELP_OPENINGS):
                yield Fault(path, help_text.lineno, f"help {word!r}", "start with a noun")


def _docstrings(node: ast.AST) -> Iterator[ast.Constant]:
    """The docstring of a module, class or function, and those below attributes."""
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return
    above: ast.stmt | None = None
    for statement in node.body:
        documents = above is None or isinstance(above, ast.Assign | ast.AnnAssign)
        if documents and isinstance(statement, ast.Expr) and _is_text(statement.value):
            yield statement.value
        above = statement


def _help_texts(node: ast.AST) -> Iterator[ast.Constant]:
    if not isinstance(node, ast.Call):
        return
    yield from (
        k.value for k in node.keywords if k.arg in ("help", "description") and _is_text(k.value)
    )
    if isinstance(node.func, ast.Name) and node.func.id == "setting":
        yield from (a for a in node.args[1:] if _is_text(a) and " " in a.value)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


# --- flags --------------------------------------------------------------------------------------

_FLAG = re.compile(r"(?<![\w-])--(?:[a-z][a-z0-9-]*(?![\w-])|\{|[\"'] ?\+)")


def _usage_end(text: str) -> int:
    """Returns the end of the docstring that is a script's usage, 0 without one."""
    first = re.match(r'\s*"""(.*?)"""', text, re.DOTALL)
    return first.end() if first and "python -m benchmarks" in first.group() else 0


def faults_of_flags(path: str, text: str) -> Iterator[Fault]:
    """Flags in the library: only the command line may name them."""
    if not _matches(path, FLAG_PATHS) or _matches(path, FLAGS_ALLOWED):
        return
    usage = _usage_end(text) if _matches(path, SCRIPTS) else 0
    for found in _FLAG.finditer(text):
        if found.start() < usage:
            continue
        if re.search(r"add_argument\(\s*[\"'][^\n]{0,40}$", text[: found.start()][-80:]):
            continue  # of a script's own parser
        if usage and re.search(r"\bmain\(\[[^\n]*$", text[: found.start()]):
            continue  # one command that calls another
        line = text.count("\n", 0, found.start()) + 1
        yield Fault(path, line, found.group(), "name the argument (num_candidates=0), not the flag")


# --- the command --------------------------------------------------------------------------------


def faults_of(path: str, text: str) -> list[Fault]:
    """All findings in one file, in the order of its lines."""
    named = [fault._replace(line=1) for fault in faults_of_words(path, path)]  # the file's own name
    found = [*named, *faults_of_words(path, text), *faults_of_openings(path, text)]
    return sorted([*found, *faults_of_flags(path, text)], key=lambda fault: fault.line)


def text_files(paths: list[Path]) -> list[str]:
    """Files to check, relative to the root."""
    listed = [
        "git",
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "--",
        *map(str, paths),
    ]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [
        name
        for name in sorted(set(names.splitlines()))
        if _matches(name, TEXTS) and not _matches(name, EXEMPT) and (ROOT / name).is_file()
    ]


def main() -> int:
    """Prints the findings; 1 if there are any."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="*", type=Path, help="files or folders; all by default")
    parser.add_argument("--counts", action="store_true", help="numbers of findings alone")
    arguments = parser.parse_args()
    paths = [path.resolve() for path in arguments.paths]
    files = text_files(paths)
    found = [fault for name in files for fault in faults_of(name, (ROOT / name).read_text())]
    if arguments.counts:
        for key in (lambda fault: fault.path, lambda fault: fault.word):
            print(
                *(f"{n:5}  {name}" for name, n in Counter(map(key, found)).most_common()), sep="\n"
            )
            print()
    else:
        print(*found, sep="\n", end="\n" if found else "")
    print(f"{len(files)} files, {len(found)} findings", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
