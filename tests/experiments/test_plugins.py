"""Plug-ins are imported because the caller names them, and their source is what identifies their classes."""

from __future__ import annotations

import hashlib

import pytest

from subspace_lab.experiments.plugins import absolute, import_plugins, version_of
from subspace_lab.experiments.recipe import RECIPES, recipe_named
from subspace_lab.studies.safety.stages import DEFENSES, Defense

SOURCE = """
from subspace_lab.studies.safety.stages import Defense, register_defense

@register_defense({name!r})
class Own(Defense):
    stage = "train"
"""


def test_a_file_is_imported_once_and_identified_by_its_source(tmp_path):
    file = tmp_path / "own_defense.py"
    file.write_text(SOURCE.format(name="by_file"))
    import_plugins([str(file)])
    found = DEFENSES["by_file"]
    import_plugins([str(file)])
    assert DEFENSES["by_file"] is found
    assert version_of(found) == {"source": hashlib.sha256(file.read_bytes()).hexdigest()}
    assert version_of(Defense) == {"revision": 1}


def test_a_module_is_imported_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "own_module_of_defenses.py").write_text(SOURCE.format(name="by_module"))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "by_module" not in DEFENSES
    import_plugins(["own_module_of_defenses"])
    assert "by_module" in DEFENSES


@pytest.mark.parametrize("source", [None, "import no_such_module_at_all", "raise KeyError", "x ="])
def test_what_cannot_be_imported_is_one_line(tmp_path, source):
    file = tmp_path / "broken.py"
    if source is not None:
        file.write_text(source)
    with pytest.raises(ValueError, match=r"^the plug-in '[^\n]*broken.py' cannot be imported \([^\n]*\); give [^\n]*$"):
        import_plugins([str(file)])
    with pytest.raises(ValueError, match=r"cannot be imported"):  # again, not half imported
        import_plugins([str(file)])


def test_paths_are_made_absolute_and_modules_are_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute(["own.py", "my_module"]) == (str(tmp_path / "own.py"), "my_module")


def test_recipes_of_this_package_need_no_plugin():
    name = "subspace_lab.experiments.recipe:RECIPES"
    assert recipe_named(name) is RECIPES
    with pytest.raises(ValueError, match=r"which was not named; give plugins="):
        recipe_named("json:dumps")
