"""What a recipe trains, in a few lines for people."""

from __future__ import annotations

from qdr_train.recipe.schema import Recipe, Stage, StudentStage


def explain(recipe: Recipe) -> str:
    """Name, summary, and a line for each stage: who learns what from whom, for how long."""
    lines = [recipe.name, f"  {recipe.summary}"]
    lines += [f"  {name}: {_stage(stage, recipe.size)}" for name, stage in recipe.stages.items()]
    if recipe.alternate:
        lines.append("  the students take turns, epoch by epoch")
    return "\n".join(lines)


def _stage(stage: Stage, size: int) -> str:
    parts = [f"{stage.model.name} at {size} px"]
    if not isinstance(stage, StudentStage) or not stage.quantize:
        parts.append(f"{stage.epochs} epochs, stays in float")
    elif stage.epochs or stage.qat_epochs:
        parts.append(f"{stage.epochs} epochs in float")
        parts.append(
            f"{stage.qat_epochs} quantization-aware, the last {stage.frozen_epochs} frozen"
        )
    else:
        parts.append("initial weights, calibrated only")
    if isinstance(stage, StudentStage):
        parts.append(_teachers(stage) if stage.teachers else "from labels alone")
    return ", ".join(parts)


def _teachers(stage: StudentStage) -> str:
    settings = stage.distill
    terms = {
        "CPM": settings.alpha,
        "CSA": settings.beta,
        "soft labels": settings.soft_labels,
    }
    weights = " + ".join(f"{weight:g} {term}" for term, weight in terms.items() if weight)
    learns = {
        "frozen": "",
        "along": ", which learns on",
        "ema": ", a moving average of one learning on",
    }
    names = " and ".join(stage.teachers)
    return f"taught by {names}{learns[settings.teacher_learns]} ({weights or 'weight 0'})"
