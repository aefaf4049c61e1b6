"""Further checkpoints: epochs of the training and models of other seeds, and the estimators that read them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config import SPLITS, Config
from pipeline.core.agreement import spearman
from pipeline.core.capture.cover import cover
from pipeline.core.minimum import Settings, descend
from pipeline.core.rows import batches, mean_loss
from pipeline.core.solvers import ekfac
from pipeline.core.solvers.products import RowGradients
from pipeline.errors import ConfigError, DataError, StoreError, TaskError
from pipeline.methods import METHODS, SCORED, SOLVED, SOLVED_PAIRS, TRACED
from pipeline.shards import Plan
from pipeline.steps import ensemble, solve
from pipeline.steps.ensemble import RATES
from pipeline.steps.estimating import RunStores
from pipeline.steps.job import Job
from pipeline.steps.preconditioned import open_preconditioner
from pipeline.steps.relabelling import best_labels
from pipeline.steps.stores import open_candidates, open_codes
from pipeline.steps.tasks import derive, model_at, task_of
from pipeline.steps.verify import find_faults
from pipeline.storage.arrays import Arrays
from pipeline.storage.artefact import create, open_artefact, read_manifest
from pipeline.storage.layout import Layout
from pipeline.storage.reduction import Workers
from pipeline.storage.weights import read_weights
from pipeline.tasks.checks import row_set
from tests.workflow.runs import ROWS, Project, ask, edited, planned
from tests.workflow.steps import compute, config_of, scores_of, stage

pytestmark = pytest.mark.workflow

EPOCHS = 60
"""Of the project's training."""
ENSEMBLE = {"members": 3, "steps": 8, "batch_rows": 10}
SOLVERS = {"cg_tolerance": 1e-8, "cg_products": 600, "lissa_depth": 60, "lissa_repeats": 1, "lissa_batch_rows": 10}
FURTHER = {"ensemble": ENSEMBLE, "solvers": SOLVERS, "checkpoints": {"epochs": [EPOCHS, 3], "seeds": 1, "twin": True}}
EVERY = {"scores": {"estimators": [name for name in SCORED if name not in ("logra", *TRACED)]}}


def weights(run: Path, checkpoint: str) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in read_weights(Layout(run).checkpoint(checkpoint)).items()}


def made_further(run: Path, config: Config) -> Layout:
    """The checkpoints of the config, and all that scores read of them."""
    layout = Layout(run)
    plan = Plan.load(layout.plan)
    stage(layout, config, "trajectory")
    stage(layout, config, "twin")
    stage(layout, config, "twin_flat")
    for number in range(1, config.checkpoints.seeds + 1):
        stage(layout, config, "member", checkpoint=f"seed-{number}")
    stage(layout, config, "ensemble")
    stage(layout, config, "losses")
    for name in sorted(set(SOLVED) - set(TRACED)):
        stage(layout, config, "solve", method=name)
    for checkpoint in config.checkpoints.further:
        stage(layout, config, "projection", checkpoint=checkpoint)
        for split in ("train", "validation"):
            for shard in plan.splits[split].shards:
                stage(layout, config, "gradients", checkpoint=checkpoint, split=split, shard=shard.name)
    return layout


@pytest.fixture(scope="module")
def further(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's run with further checkpoints and every estimator."""
    copy = project.copy_of_run(tmp_path_factory.mktemp("further"))
    config = config_of(project.config, **FURTHER, **EVERY)
    stage(made_further(copy, config), config, "scores")
    return copy


def test_the_last_epoch_is_the_trained_model_and_an_earlier_one_is_not(further: Path) -> None:
    trained, last, early = (weights(further, name) for name in ("trained", f"epoch-{EPOCHS}", "epoch-3"))
    assert all(np.array_equal(trained[name], last[name]) for name in trained)
    assert not any(np.array_equal(trained[name], early[name]) for name in trained)
    assert read_manifest(Layout(further).checkpoint("epoch-3")).record["learning_rate"] == 5e-3


def test_a_member_is_another_model_trained_on_the_same_rows(further: Path) -> None:
    trained, member = (weights(further, name) for name in ("trained", "seed-1"))
    assert not any(np.array_equal(trained[name], member[name]) for name in trained)
    losses = [open_losses(further, name).mean() for name in ("trained", "seed-1")]
    assert max(losses) < 0.5 * np.log(10)  # a class out of ten by chance: ln 10


def test_the_twin_is_another_training_kept_after_the_same_epochs(further: Path) -> None:
    twins = [weights(further, f"twin-{epoch}") for epoch in (3, EPOCHS)]
    assert not any(np.array_equal(twins[0][name], twins[1][name]) for name in twins[0])
    for other in ("trained", "seed-1"):
        assert not any(np.array_equal(twins[1][name], value) for name, value in weights(further, other).items())
    assert open_losses(further, f"twin-{EPOCHS}").mean() < 0.5 * np.log(10)
    flat = weights(further, "twin-flat")
    assert not any(np.array_equal(flat[name], twins[1][name]) for name in flat)
    validation = [losses_of(further, name, "validation").mean() for name in (f"twin-{EPOCHS}", "twin-flat")]
    assert validation[1] < validation[0]


def test_stability_stands_beside_the_suspects_where_it_was_recorded(further: Path, project: Project) -> None:
    scores = scores_of(further)
    for row in ask("suspects", further, "--top", 5, "--json").rows:
        assert row["mu"] == scores["fine"][row["row"]] and row["stable"] == scores["lasting"][row["row"]]
        losses = open_losses(further, "twin-flat")
        assert row["stable"] == np.mean(losses < losses[row["row"]])
    assert "stable: share of the rows" in ask("suspects", further, "--top", 2).out
    assert not {"mu", "stable"} & set(ask("suspects", project.run, "--top", 1, "--json").rows[0])


def test_fine_without_a_twin_is_refused(project: Project) -> None:
    asked = {"scores": {"estimators": ["tracin", "fine"]}, "checkpoints": {"epochs": [3, 5]}}
    with pytest.raises(ConfigError, match="expected checkpoints.twin: true and at least two .* for fine, got twin: f"):
        config_of(project.config, **asked)


def open_losses(run: Path, checkpoint: str) -> np.ndarray:
    return losses_of(run, checkpoint, "train")


def losses_of(run: Path, checkpoint: str, split: str) -> np.ndarray:
    return open_codes(Layout(run), Plan.load(Layout(run).plan), checkpoint, split).column("loss")


def test_tracin_sums_over_the_epochs_with_their_rates(further: Path) -> None:
    plan, expected = Plan.load(Layout(further).plan), 0.0
    for checkpoint in ("epoch-3", f"epoch-{EPOCHS}"):
        train, validation = (
            open_codes(Layout(further), plan, checkpoint, split).codes().astype(np.float64)
            for split in ("train", "validation")
        )
        expected = expected + 5e-3 * train @ validation.mean(0)
    assert np.allclose(scores_of(further)["tracin"], expected, rtol=1e-6)


def test_labels_suggested_are_those_under_which_a_row_would_have_helped_most(
    further: Path, project: Project, tmp_path: Path
) -> None:
    shutil.copytree(further, copy := tmp_path / "run")
    layout, plan = Layout(copy), Plan.load(Layout(copy).plan)
    relabel = ["tracin", "classical", "relatif"]
    config = config_of(project.config, **FURTHER, **EVERY, evaluate={"relabel": relabel})
    for checkpoint in ("trained", "epoch-3", f"epoch-{EPOCHS}"):
        for shard in plan.splits["train"].shards:
            stage(layout, config, "candidates", checkpoint=checkpoint, split="train", shard=shard.name)
    stage(layout, config, "evaluate")
    expected = dict.fromkeys(relabel, 0.0)
    for checkpoint, rate in (("epoch-3", 5e-3), (f"epoch-{EPOCHS}", 5e-3), ("trained", None)):
        under = open_candidates(layout, plan, checkpoint, "train").codes().astype(np.float64)  # [N, C, K]
        mean = open_codes(layout, plan, checkpoint, "validation").codes().astype(np.float64).mean(0)
        if rate is not None:
            expected["tracin"] = expected["tracin"] + rate * under @ mean
        else:
            preconditioner = open_preconditioner(layout, checkpoint, "train")[0]
            expected["classical"] = under @ preconditioner.solve(mean[None])[0]
            solved = preconditioner.solve(under.reshape(-1, under.shape[-1])).reshape(under.shape)
            expected["relatif"] = solved @ mean / np.linalg.norm(solved, axis=2)
    stores = RunStores(layout, plan, Workers(1, 10**9))
    truth = np.asarray(task_of(config, plan).true_labels)
    wrong = (truth != scores_of(copy)["given"]) & (truth >= 0)
    judged = {row["method"]: row for row in open_artefact(layout.evaluation("relabel"), "evaluation").record["rows"]}
    for name in relabel:
        labels = best_labels(stores, name, config.checkpoints.expanded(METHODS[name].at[:1]))
        assert np.array_equal(labels, expected[name].argmax(1))
        row = judged[f"{METHODS[name].title}, argmax over labels"]
        assert row["accuracy"] == (labels == truth)[wrong].mean() and row["rows"] == wrong.sum()
    assert not stale_tables(layout)
    fewer = config_of(project.config, candidates={"max_classes": 5, "sampled_labels": 2})
    stage(layout, fewer, "candidates", checkpoint="trained", split="train", shard="00000")
    assert stale_tables(layout) == {"mislabel", "relabel"}


def test_labels_are_not_suggested_from_gradients_under_some_labels(
    further: Path, project: Project, tmp_path: Path
) -> None:
    shutil.copytree(further, copy := tmp_path / "run")
    layout, plan = Layout(copy), Plan.load(Layout(copy).plan)
    config = config_of(project.config, candidates={"max_classes": 5, "sampled_labels": 2})
    for shard in plan.splits["train"].shards:
        stage(layout, config, "candidates", checkpoint="trained", split="train", shard=shard.name)
    with pytest.raises(StoreError, match="expected gradients under all labels for classical, got those under some"):
        best_labels(RunStores(layout, plan, Workers(1, 10**9)), "classical", ["trained"])


def stale_tables(layout: Layout) -> set[str]:
    """Tables of an evaluation that were made from other gradients under all labels than those that there are."""
    found = [fault.artefact for fault in find_faults(layout)[1] if "candidates" in fault.what]
    return {path.stem for path in found if path.parent.name == "evaluation"}


MADE = {
    "checkpoints/geometric-1": ("trained", "content"),
    "checkpoints/seed-1": ("trained",),
    "checkpoints/folds": ("trained", "flat", "content"),
    "losses/ensemble": ("members", "content"),
    "posterior/posterior": ("checkpoints", "content", "retired"),
}


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in MADE.items() for key in keys])
def test_models_and_what_they_say_are_to_be_of_what_stands_in_the_run(
    name: str, key: str, further: Path, tmp_path: Path
) -> None:
    shutil.copytree(further, copy := tmp_path / "run")
    layout, path = Layout(copy), copy / "results" / f"{name}.zarr"
    if not path.exists():
        path = path.with_suffix(".safetensors")
    before = {fault.artefact for fault in find_faults(layout)[1]}
    manifest = read_manifest(path)
    other = manifest.identity[key][::-1] if key == "members" else "other"
    shutil.move(path, kept := tmp_path / path.name)
    with create(path, manifest.kind, {**manifest.identity, key: other}, manifest.record) as place:
        shutil.move(kept, place)
    found = [fault for fault in find_faults(layout)[1] if fault.artefact == path]
    assert path not in before and any(f"expected its {key} to be what stands" in fault.what for fault in found)


def test_gex_reads_the_losses_along_the_chain(further: Path) -> None:
    layout = Layout(further)
    losses = Arrays(layout.losses)
    assert losses.shape("train") == (ROWS, 3) and losses.shape("query") == (12, 3)
    changes = losses.read("train") - np.maximum(open_losses(further, "trained"), 0.05)[:, None]
    assert np.allclose(scores_of(further)["gex"], np.square(changes).mean(1), rtol=1e-6)
    members = [weights(further, f"geometric-{number}") for number in (1, 2, 3)]
    assert not any(np.array_equal(members[0][name], members[1][name]) for name in members[0])


def losses_after(run: Path, project: Project, rate: float) -> float:
    """Mean loss of the validation rows after eight steps of plain SGD with momentum, the rate falling as a cosine."""
    config = config_of(project.config, **FURTHER)
    task, layout = task_of(config, Plan.load(Layout(run).plan)), Layout(run)
    model = model_at(task, layout, "trained")
    descent = Settings(
        method="plain", strength=0.0, steps=8, learning_rate=rate, momentum=0.9, weight_decay=0.0, batch_rows=10,
        noise_parts=1, noise_growth=1.0, optimizer="sgd", seed=derive(config.seed, "geometric-1"),
    )  # fmt: skip
    for _ in descend(model, task.loss, row_set(task, "train"), descent):
        pass
    return mean_loss(model, task.loss, row_set(task, "validation"), 64)


def test_the_rate_of_the_ensemble_has_the_least_loss_on_validation_rows(further: Path, project: Project) -> None:
    record = read_manifest(Layout(further).checkpoint("geometric-2")).record
    found = {rate: losses_after(further, project, rate) for rate in RATES[:7]}
    assert record["learning_rate"] == min(found, key=lambda rate: found[rate])
    assert record["steps"] == 8 and len(set(found.values())) == 7


def test_rates_at_which_a_member_falls_apart_are_not_taken(
    further: Path, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(further, tmp_path / "run"))
    monkeypatch.setattr(ensemble, "RATES", (1e30, 0.01))
    config = config_of(project.config, ensemble={"members": 1})
    said: list[str] = []
    ensemble.run(Job("ensemble", Layout(run), config, said.append))
    record = read_manifest(Layout(run).checkpoint("geometric-1")).record
    assert (record["learning_rate"], record["steps"]) == (0.01, round(16 * ROWS / 128))
    assert any("inf (1e+30)" in line for line in said)


def test_cg_on_whole_gradients_is_classical_influence_in_codes_that_keep_them_whole(
    project: Project, further: Path, tmp_path: Path
) -> None:
    """Codes of the identity in float32 are the gradients; both solve for the same matrix and the same lambda."""
    shutil.copytree(Layout(further).results / "checkpoints", tmp_path / "results" / "checkpoints")
    whole = {"projection": {"method": "identity"}, "gradients": {"codec": "float32"}}
    own = compute(tmp_path, config_of(project.config, **whole))["classical"]
    found = scores_of(further)["classical_cg"]
    assert np.allclose(found, own, rtol=1e-3, atol=1e-4 * np.abs(own).max())
    assert read_manifest(Layout(further).solved("classical_cg")).record["residual"] <= 1e-8


def test_s_by_factored_curvature_ranks_rows_much_as_s_in_codes_does(further: Path) -> None:
    scores = scores_of(further)
    for name in ("s_kfac", "s_ekfac", "w_kfac", "w_ekfac"):
        assert (scores[name] > 0).all() and spearman(scores[name], scores[name[0]]) > 0.9
    gradients = read_manifest(Layout(further).solved("s_ekfac")).identity["gradients"]["train"]
    assert gradients == open_codes(Layout(further), Plan.load(Layout(further).plan), "flat", "train").digests()


def test_what_needs_no_further_checkpoint_is_as_before(further: Path, project: Project) -> None:
    before, after = scores_of(project.run), scores_of(further)
    for name in ("s", "w", "self_influence", "classical", "suggested", "loss_flat"):
        assert np.array_equal(before[name], after[name]), name
    assert np.isfinite([after[name] for name in EVERY["scores"]["estimators"] if METHODS[name].rows]).all()
    assert not set(SOLVED_PAIRS) & set(after)


@pytest.mark.parametrize(("name", "behind"), [("influence_ekfac", "train"), ("fvm_kfac", "validation")])
def test_pairs_are_products_of_whole_gradients_under_the_factored_curvature(
    further: Path, project: Project, name: str, behind: str
) -> None:
    layout, config = Layout(further), config_of(project.config, **FURTHER)
    plan, at = Plan.load(layout.plan), METHODS[name].at[0]
    task = task_of(config, plan)
    model = model_at(task, layout, at)
    shapes = {parameter: tuple(value.shape) for parameter, value in model.named_parameters()}
    rows = {split: RowGradients(model, task.loss, row_set(task, split), tuple(shapes), 16) for split in SPLITS}
    engine = cover(model, task.loss, tuple(shapes), rows[behind].rows.batch([0, 1]), "auto").engine
    factored = ekfac.fit(engine, batches(rows[behind].rows, 16), shapes, "ekfac" in name)
    found = Arrays(layout.solved(name)).read("train")
    asked = [0, found.shape[1] - 1]
    solved = torch.stack([factored.solve(rows["query"].of([query]).mean(), 0.1) for query in asked])
    assert config.solvers.factored_damping == 0.1
    np.testing.assert_allclose(found[:, asked], rows["train"].dots(solved).numpy(), rtol=1e-3, atol=1e-5)
    assert set(read_manifest(layout.solved(name)).identity["gradients"]) == {"train", "validation", "query"}
    with pytest.raises(DataError, match="expected query rows to score pairs of, got none that count"):
        solve._pairs(Job("solve", layout, config, print), factored, engine, rows["train"], rows["query"].of([]))


def test_ensemble_and_solvers_are_planned_where_a_column_wants_them(project: Project, tmp_path: Path) -> None:
    asked = {"scores": {"estimators": ["gex", "classical_ekfac"]}, "ensemble": {"members": 2}}
    made = planned(project.copy_of_run(tmp_path), "-c", project.changed(tmp_path, **asked))
    assert made == {"checkpoints/geometric-1", "checkpoints/geometric-2", "losses/ensemble", "solved/classical_ekfac",
                    "scores/scores", "evaluation/mislabel", "report/index"}  # fmt: skip


def test_gex_without_members_is_refused(project: Project) -> None:
    with pytest.raises(ConfigError, match="expected ensemble.members of at least 1 for gex, got 0"):
        config_of(project.config, scores={"estimators": ["gex"]})


def test_they_are_planned_with_all_that_is_read_of_them_and_nothing_else(project: Project, tmp_path: Path) -> None:
    config = project.changed(tmp_path, checkpoints={"epochs": [3], "seeds": 1, "twin": True})
    made = planned(project.copy_of_run(tmp_path), "-c", config)
    new = {
        f"{kind}/{name}"
        for kind in ("checkpoints", "projection")
        for name in ("epoch-3", "seed-1", "twin-3", "twin-flat")
    }
    new |= {f"gradients/{name}/{shard}" for name in ("epoch-3", "seed-1", "twin-3", "twin-flat")
            for shard in ("train/00000", "train/00001", "validation/00000", "query/00000")}  # fmt: skip
    assert made == new | {"scores/scores", "evaluation/mislabel", "report/index"}


def test_further_models_of_weights_that_were_given_are_epochs_of_nothing(project: Project, tmp_path: Path) -> None:
    copy = project.copy_of_run(tmp_path)
    given = shutil.copy(Layout(copy).checkpoint("trained"), tmp_path / "given.safetensors")
    config = config_of(project.config, **FURTHER)
    config = config.model_copy(update={"task": config.task.model_copy(update={"checkpoint": str(given)})})
    with pytest.raises(ConfigError, match="expected no task.checkpoint with checkpoints.epochs, got both"):
        stage(Layout(copy), config, "trajectory")


def test_a_training_that_tells_no_epochs_is_refused(project: Project, tmp_path: Path) -> None:
    copy = project.copy_of_run(tmp_path)
    silent = project.task.read_bytes() + b"\n    def train(self, model):\n        pass\n"
    with edited(project.task, silent), pytest.raises(TaskError, match="to call self.epoch_ended.*got 0 calls"):
        stage(Layout(copy), config_of(project.config, **FURTHER), "trajectory")
    assert not Layout(copy).checkpoint("epoch-3").exists()


def test_confident_learning_wants_all_rows(project: Project, tmp_path: Path) -> None:
    copy = project.copy_of_run(tmp_path)
    few = {"candidates": {"rows": "suspects", "suspect_share": 0.2}}
    config = config_of(project.config, **few, scores={"estimators": ["confident_learning"]})
    stage(Layout(copy), config, "suspects")
    for shard in ("00000", "00001"):
        stage(Layout(copy), config, "candidates", checkpoint="flat", split="train", shard=shard)
    with pytest.raises(
        StoreError, match="losses of all 30 train rows.*candidates.rows to all, candidates.max_classes to at least 10"
    ):
        stage(Layout(copy), config, "scores")


def test_logra_is_refused_in_other_codes_than_its_own(project: Project) -> None:
    with pytest.raises(ConfigError, match="expected projection.method kronecker or kronecker_pca for logra"):
        config_of(project.config, scores={"estimators": ["logra"]})
