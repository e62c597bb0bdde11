"""Recipes: what ships loads; what is wrong is named in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from qdr_edge.errors import RecipeError
from qdr_train.recipe import StudentStage
from qdr_train.recipe.explain import explain
from qdr_train.recipe.files import dump_recipe, find_recipe, load_recipe, shipped_recipes
from tests.eyes import RECIPE, write_recipe


def test_every_shipped_recipe_loads_and_explains_itself() -> None:
    recipes = {name: load_recipe(path) for name, path in shipped_recipes().items()}
    assert {"demo", "real-fundus", "paper", "mobilenetv3", "resnet50-latency"} <= set(recipes)
    for name, recipe in recipes.items():
        assert recipe.name == name
        assert len(recipe.summary) > 20


def test_comparison_recipe_differs_from_the_demo_in_the_student_only() -> None:
    demo, other = (load_recipe(find_recipe(name)) for name in ("demo", "mobilenetv3"))
    for name, stage in demo.stages.items():
        there = other.stages[name]
        if isinstance(stage, StudentStage):
            assert there.model.name == "mobilenetv3-small"
            there = there.model_copy(update={"model": stage.model})
        assert there == stage
    assert (demo.size, demo.seed, demo.data) == (other.size, other.seed, other.data)


def test_paper_recipe_holds_the_protocol() -> None:
    recipe = load_recipe(find_recipe("paper"))
    student = recipe.stages["student-oct"]
    assert isinstance(student, StudentStage)
    assert recipe.size == 448
    assert recipe.data.labels == "TOPCON-MM"
    assert (student.model.name, student.model.dropout, student.batch) == ("resnet50", 0.5, 8)
    assert student.epochs + student.qat_epochs == 80
    assert student.optimizer.name == "sgd"
    assert (student.optimizer.lr, student.optimizer.weight_decay) == (1e-3, 1e-4)
    assert (student.distill.alpha, student.distill.beta, student.distill.temperature) == (2, 1, 4)
    assert student.teachers == ("teacher-fundus",)


def test_comparison_recipes_are_the_paper_with_one_direction_in_float() -> None:
    paper = load_recipe(find_recipe("paper"))
    assert paper.alternate
    for name, student, teacher in (
        ("fddm", "student-oct", "teacher-fundus"),
        ("oddm", "student-fundus", "teacher-oct"),
    ):
        recipe = load_recipe(find_recipe(name))
        assert list(recipe.stages) == [teacher, student]
        assert recipe.stages[teacher] == paper.stages[teacher]
        stage, there = recipe.stages[student], paper.stages[student]
        assert isinstance(stage, StudentStage)
        assert isinstance(there, StudentStage)
        assert not stage.quantize
        assert stage.epochs == there.epochs + there.qat_epochs
        assert (stage.distill, stage.optimizer) == (there.distill, there.optimizer)
        alone = load_recipe(find_recipe(teacher))
        assert alone.stages == {teacher: paper.stages[teacher]}


def test_extends_lays_a_recipe_on_top_of_another(tmp_path: Path) -> None:
    write_recipe(tmp_path)  # tiny.yaml
    child = tmp_path / "child.yaml"
    child.write_text("extends: tiny\nsize: 64\ndefaults: {student: {epochs: 9}}\n")
    tiny, recipe = load_recipe(tmp_path / "tiny.yaml"), load_recipe(child)
    assert (recipe.name, recipe.size, recipe.seed) == ("child", 64, tiny.seed)
    assert recipe.stages["student-oct"].epochs == 9
    assert recipe.stages["teacher-fundus"] == tiny.stages["teacher-fundus"]
    child.write_text("extends: tiny\nname: alone\nstages: {student-oct: null}\n")
    assert list(load_recipe(child).stages) == ["teacher-fundus"]
    (tmp_path / "tiny.yaml").write_text("extends: child\nname: tiny\n")
    with pytest.raises(RecipeError, match="leads back to itself"):
        load_recipe(child)
    child.write_text("extends: tinny\n")
    with pytest.raises(RecipeError, match="no such recipe"):
        load_recipe(child)


def test_list_explains_who_teaches_whom() -> None:
    text = explain(load_recipe(find_recipe("paper")))
    assert "taught by teacher-fundus, which learns on (2 CPM + 1 CSA)" in text
    assert "take turns" in text
    assert "stays in float, taught by teacher-oct" in explain(load_recipe(find_recipe("oddm")))
    assert "from labels alone" in explain(load_recipe(find_recipe("student-latency")))


def test_dump_is_complete_and_reads_back(tmp_path: Path) -> None:
    for path in shipped_recipes().values():
        recipe = load_recipe(path)
        again = tmp_path / "again.yaml"
        again.write_text(dump_recipe(recipe))
        assert load_recipe(again) == recipe


def test_defaults_are_merged_under_each_stage(tmp_path: Path) -> None:
    text = RECIPE.replace("{modality: fundus}", "{modality: fundus, model: {name: resnet18}}")
    stage = load_recipe(write_recipe(tmp_path, text)).stages["teacher-fundus"]
    assert (stage.model.name, stage.model.width, stage.batch) == ("resnet18", 0.34, 6)


def test_overrides(tmp_path: Path) -> None:
    recipe = load_recipe(
        write_recipe(tmp_path),
        overrides=[
            "student.epochs=7",
            "student.optimizer.lr=1e-3",
            "stages.teacher-fundus.batch=4",
            "data.labels=[NOR, DR]",
        ],
        size=64,
        seed=5,
    )
    assert recipe.stages["student-oct"].epochs == 7
    assert recipe.stages["student-oct"].optimizer.lr == 1e-3
    assert recipe.stages["teacher-fundus"].batch == 4
    assert recipe.data.labels == ("NOR", "DR")
    assert (recipe.size, recipe.seed) == (64, 5)


def test_an_override_of_students_leaves_the_teacher_they_share_an_anchor_with(
    tmp_path: Path,
) -> None:
    text = RECIPE.replace("teacher-fundus: {", "teacher-fundus: &eye {")
    text = text.replace(
        "student-oct: {modality: oct, teachers: [teacher-fundus]}", "student-x: *eye"
    )
    assert text.count("*eye") == text.count("&eye") == 1
    recipe = load_recipe(write_recipe(tmp_path, text), overrides=["student.batch=3"])
    assert [stage.batch for stage in recipe.stages.values()] == [6, 3]


def test_epochs_scale_keeps_at_least_one_and_leaves_zero(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    tiny = load_recipe(path, epochs_scale=0.01).stages["student-oct"]
    assert isinstance(tiny, StudentStage)
    assert (tiny.epochs, tiny.qat_epochs, tiny.frozen_epochs) == (1, 1, 1)
    zero = load_recipe(path, overrides=["student.epochs=0"], epochs_scale=3).stages["student-oct"]
    assert zero.epochs == 0


def wrong(tmp_path: Path, text: str) -> str:
    path = write_recipe(tmp_path, text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("change", "into", "parts"),
    [
        ("size: 32", "size: 32\nseeed: 1", ["unknown key 'seeed'", "did you mean 'seed'?"]),
        ("batch: 6", "bacth: 6", ["'bacth'", "did you mean 'batch'?", "stages.teacher-fundus"]),
        ("width: 0.34", "widht: 0.34", ["'widht'", "did you mean 'width'?", ".model"]),
        ("qat_epochs: 2", "qat_epoch: 2", ["did you mean 'qat_epochs'?"]),
        ("  teacher:\n", "  teachr:\n", ["unknown key 'teachr'", "did you mean 'teacher'?"]),
        ("size: 32", "size: 100", ["100 px does not fit", "multiple of 32", "such as 96"]),
        ("size: 32", "size: 16", ["16 px does not fit", "such as 32"]),
        ("size: 32", "size: 4096", ["does not fit", "such as 1024"]),
        ("size: 32", "size: big", ["size", "'big'", "integer"]),
        ("size: 32", "", ["size", "missing"]),
        ("seed: 3", "scheme: exakt", ["unknown quantization scheme 'exakt'"]),
        ("teachers: [teacher-fundus]", "teachers: [teacher-oct]", ["'teacher-oct'", "before it"]),
        ("modality: oct", "modality: octa", ["'octa'", "'fundus' or 'oct'"]),
        ("frozen_epochs: 1", "frozen_epochs: 5", ["frozen_epochs is 5", "qat_epochs 2"]),
        ("student-oct:", "learner:", ["stages.learner", "role"]),
        ("seed: 3", "seed: [", ["not YAML"]),
        ("stages:\n", "stages: 3\nother:\n", ["stages is int"]),
    ],
)
def test_wrong_recipe_is_one_clear_line(
    tmp_path: Path, change: str, into: str, parts: list[str]
) -> None:
    assert change in RECIPE
    message = wrong(tmp_path, RECIPE.replace(change, into))
    for part in parts:
        assert part in message


def test_soft_labels_need_a_teacher_of_the_same_modality(tmp_path: Path) -> None:
    text = RECIPE.replace("batch: 6\n    epochs: 2\n    qat", "distill: {soft_labels: 1}\n    qat")
    assert "soft_labels without a teacher of its own modality" in wrong(tmp_path, text)


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="did you mean real-fundus") as caught:
        find_recipe("real-fundsu")
    assert caught.value.exit_code == 5


def test_override_errors_are_clear(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    for override, part in [
        ("epochs", "KEY=VALUE"),
        ("stages.student-otc.epochs=3", "did you mean 'student-oct'"),
        ("student.epoch=3", "did you mean 'epochs'"),
    ]:
        with pytest.raises(RecipeError, match=part):
            load_recipe(path, overrides=[override])


def test_recipes_run_no_code(tmp_path: Path) -> None:
    message = wrong(tmp_path, RECIPE.replace("seed: 3", "seed: !!python/object/apply:time.time []"))
    assert "not YAML" in message


def test_scales_with_zero_points_are_not_learned() -> None:
    settings = ["scheme=u8", "student.quantization.scales=learned"]
    with pytest.raises(RecipeError, match="learns scales under scheme u8; expected observed"):
        load_recipe(find_recipe("real-fundus"), overrides=settings)
    assert load_recipe(find_recipe("real-fundus"), overrides=settings[:1]).quant_scheme().unsigned


def test_a_recipe_without_keys_added_later_keeps_its_fingerprint() -> None:
    """A run is resumed only with its own recipe: a release must not change how it is written."""
    text = dump_recipe(load_recipe(find_recipe("demo")))
    assert "own:" not in text
    assert "calibration:" not in text
    mse = load_recipe(find_recipe("demo"), overrides=["student.quantization.calibration=mse"])
    assert "calibration: mse" in dump_recipe(mse)


def test_an_override_leaves_a_stage_out_and_later_ones_pass_it_over():
    recipe = load_recipe(
        shipped_recipes()["schemes"], overrides=["stages.student-oct=null", "student.batch=4"]
    )
    assert list(recipe.stages) == ["student-fundus"]
    assert recipe.stages["student-fundus"].batch == 4
