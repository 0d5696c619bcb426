"""Configuration files from strangers: nothing runs, nothing hangs, and the error names the file."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.config import load_config, read_config
from yolor_d2.config.files import MAX_VALUES, expanded_size

ROOT = Path(__file__).parents[1]


def bomb(opening: str, closing: str) -> str:
    """Twelve levels of ten aliases each: 10^12 values."""
    lines = [f"a0: &a0 {opening}{closing}"]
    for i in range(1, 13):
        items = ", ".join(f"k{j}: *a{i - 1}" if opening == "{" else f"*a{i - 1}" for j in range(10))
        lines.append(f"a{i}: &a{i} {opening}{items}{closing}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('SEED: !!python/object/apply:os.system ["touch pwned"]', "no plain YAML.*python/object"),
        (bomb("{", "}"), "too large or nested too deeply"),
        (bomb("[", "]"), "too large or nested too deeply"),
        ("a: &a [*a]", "too large or nested too deeply"),
        ("a: " + "[" * 3000 + "]" * 3000, "too large or nested too deeply"),
        ("MODEL: [cpu", "no plain YAML"),
        ("MODEL: 3", "MODEL is 3, expected keys below it"),
        ("MODEL:", "MODEL is None, expected keys below it"),
        ("- a\n- b", "is a list, expected KEY: VALUE lines"),
        ("", "is empty, expected KEY: VALUE lines"),
        ("SEED: 2020-01-01", "SEED.*date"),
        ("MODEL: {YOLOR: {NUM_CLASSES: many}}", "NUM_CLASSES is 'many', expected a whole"),
        ("_BASE_: 3", "_BASE_ is 3, expected the path of a local file"),
        ("_BASE_: http://example.com/a.yaml", "expected the path of a local file"),
        ("_BASE_: config.yaml", "runs in a circle"),
        (b"\xff\xfeM\x00", "no text in UTF-8"),
    ],
)
def test_what_is_no_configuration_is_refused_by_name(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message) as caught:
        read_config(path)
    assert str(path) in str(caught.value)
    assert [x.name for x in tmp_path.iterdir()] == ["config.yaml"]


def test_circles_are_shown_whole(tmp_path):
    (tmp_path / "a.yaml").write_text("_BASE_: b.yaml")
    (tmp_path / "b.yaml").write_text("_BASE_: [a.yaml]")
    with pytest.raises(ValueError, match=r"a\.yaml -> .*b\.yaml -> .*a\.yaml"):
        read_config(tmp_path / "a.yaml")


def test_a_missing_base_names_both_files(tmp_path):
    (tmp_path / "a.yaml").write_text("_BASE_: b.yaml")
    with pytest.raises(FileNotFoundError, match=r"b\.yaml', which .*a\.yaml' is based on"):
        read_config(tmp_path / "a.yaml")


@pytest.mark.parametrize("where", ["itself", "its base"])
def test_an_unknown_key_names_its_file_and_the_nearest_key(tmp_path, where):
    (tmp_path / "wrong.yaml").write_text("MODEL: {YOLOR: {VARIAN: yolor_csp}}")
    (tmp_path / "child.yaml").write_text("_BASE_: wrong.yaml")
    path = tmp_path / ("wrong.yaml" if where == "itself" else "child.yaml")
    with pytest.raises(
        KeyError, match=r"wrong\.yaml: .*VARIAN'; did you mean 'MODEL.YOLOR.VARIANT"
    ):
        read_config(path)


def test_long_and_foreign_names_are_no_trouble(tmp_path):
    folder = tmp_path / ("ü" * 60) / ("folder with spaces " * 10) / "配置"
    folder.mkdir(parents=True)
    (folder / "größe.yaml").write_text("SEED: 3")
    (folder / "kind.yaml").write_text("_BASE_: größe.yaml", encoding="utf-8")
    assert load_config(folder / "kind.yaml", ["MODEL.DEVICE", "cpu"]).SEED == 3


def test_aliases_count_each_time():
    shared = [1, 2]
    assert expanded_size({"a": shared, "b": shared}) == 1 + 2 + 2 * 3
    assert expanded_size([0] * (MAX_VALUES + 1)) > MAX_VALUES


def test_the_page_of_keys_is_up_to_date():
    spec = importlib.util.spec_from_file_location("page", ROOT / "docs/make_config_page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), (
        "run python docs/make_config_page.py"
    )
