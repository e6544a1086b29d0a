"""The tables of benchmarks/store_chaos.py follow the source: each anchor of a fault point or a mutant is in it once."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture
def tables(monkeypatch):
    """The modules that make faulty builds: (faulty_build, fault points, mutants)."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import fault_points
    import faulty_build
    import mutants

    yield faulty_build, fault_points.POINTS, mutants.MUTANTS
    for name in ("fault_points", "faulty_build", "mutants"):
        del sys.modules[name]


def test_every_mutant_can_be_made_of_the_source_with_all_fault_points(tables):
    faulty_build, points, mutants = tables
    assert len(mutants) >= 20
    whole = faulty_build.edit(points, [])
    for mutant in mutants.values():
        assert mutant.breaks
        changed = faulty_build.edit(points, mutant.edits)
        assert any(whole.get(file) != text for file, text in changed.items())


def test_every_fault_point_is_there_under_a_name_of_its_own(tables):
    faulty_build, points, _ = tables
    assert len(points) == len({point.name for point in points})
    texts = faulty_build.edit(points, [])
    for number, point in enumerate(points):
        assert f"_faults.reach({number})  # {point.name}\n" in texts[point.file]


def test_an_anchor_that_has_moved_is_an_error_that_names_it(tables):
    faulty_build, _, _ = tables
    gone = faulty_build.Point("supervisor.gone", "clock.py", "this is in no file")
    with pytest.raises(faulty_build.BadAnchor, match=r"supervisor\.gone: clock\.py has this 0 times"):
        faulty_build.edit([gone], [])
    with pytest.raises(faulty_build.BadAnchor, match=r"clock\.py has this \d+ times"):
        faulty_build.edit([], [faulty_build.Edit("clock.py", "float", "int")])


def test_a_build_leaves_the_package_as_it_is_and_has_the_faults_beside_it(tables, tmp_path):
    faulty_build, points, _ = tables
    place = Path(faulty_build.make(tmp_path, points)) / "procjobs"
    assert (place / "_faults.py").exists()
    assert not (faulty_build.SOURCE / "_faults.py").exists()
    assert "_faults.reach(" not in (faulty_build.SOURCE / "worker" / "worker.py").read_text()
    assert "_faults.reach(" in (place / "worker" / "worker.py").read_text()
