"""The measures of the package's shape, on small packages whose numbers are known."""

import textwrap

import pytest

from tools import measure_house as house


@pytest.fixture
def write(tmp_path, monkeypatch):
    """write(name=text, ...): a package of these files below ROOT; returns its files by module name."""

    def write(**texts):
        folder = tmp_path / "rankpg"
        for name, text in texts.items():
            path = folder / f"{name.replace('__in__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        return house.source_files()

    monkeypatch.setattr(house, "ROOT", tmp_path)
    return write


def test_the_chain_follows_every_import_but_those_for_types(write):
    files = write(
        __init__="",
        a="def top():\n    from rankpg import b",
        b="from rankpg.sub import c",
        sub__in____init__="",
        sub__in__c="from . import d\nif TYPE_CHECKING:\n    import rankpg.e",
        sub__in__d="import numpy",
        e="import rankpg.a",
    )
    graph = house.import_graph(files)
    below = ["rankpg.a", "rankpg.b", "rankpg.sub.c", "rankpg.sub.d"]
    assert house.longest_chain(graph) == ["rankpg.e", *below]
    assert [c for c in house.components_of(graph) if len(c) > 1] == []
    circles = house.components_of(house.import_graph(files, typing_too=True))
    assert [c for c in circles if len(c) > 1] == [
        ["rankpg.a", "rankpg.b", "rankpg.e", "rankpg.sub.c"]
    ]


def test_a_circle_counts_with_all_its_files(write):
    files = write(
        a="import rankpg.b", b="import rankpg.c", c="import rankpg.a\nimport rankpg.d", d=""
    )
    chain = house.longest_chain(house.import_graph(files))
    assert chain == ["rankpg.a", "rankpg.b", "rankpg.c", "rankpg.d"]


def test_parameters_without_a_type(write):
    write(
        a="""
        class A:
            def f(self, x, y: Any, z: int | Any, *rest: int, key: "Any", **more): ...
            @staticmethod
            def g(x): ...
            @classmethod
            def h(cls, x: list[Any]): ...
        def outer(x: int):
            def inner(carry, x: int): ...
        """
    )
    found = house.measure_types()
    assert found.value == pytest.approx(7 / 11)
    assert "    rankpg/a.py:3 A.f(x, y, z, key, more)" in found.details
    assert "    rankpg/a.py:9 outer.inner(carry)" in found.details


def test_lines_of_a_body_are_code_alone(write):
    body = "\n    # why\n\n".join(f"    x = {i}" for i in range(61))
    write(a=f'def f():\n    """Counts."""\n{body}\n\n\ndef g():\n    """Counts."""\n', b="\n" * 501)
    functions, files = house.measure_sizes()
    assert functions.details == ["rankpg/a.py:1 f: 61"]
    assert files.details == ["rankpg/b.py: 501"]


def test_files_are_entered_by_calls_of_their_functions(write, tmp_path):
    files = write(
        a="class A:\n    x = 1\ndef f():\n    return (lambda: 1)()\n",
        b="def g():\n    return [x for x in ()]\n",
    )
    spaces = {name: {} for name in files}

    def action():
        for name, path in files.items():
            exec(compile(path.read_text(), str(path), "exec"), spaces[name])
        spaces["rankpg.a"]["f"]()

    assert house.files_entered(action) == {"rankpg/a.py": 2}
