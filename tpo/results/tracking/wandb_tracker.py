"""One job as one run of Weights & Biases.

W&B is given what it is to show and collects nothing by itself: command lines, git remotes and lists of packages may
hold passwords and tokens.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tpo.config.tracking import WandbTracking
from tpo.model.policy import is_whole_model
from tpo.pairs.build import judged_groups
from tpo.results.rate import Rate
from tpo.results.tracking.connect import TrackingError
from tpo.results.tracking.download import FILES
from tpo.results.tracking.labels import Labels
from tpo.results.tracking.lineage import Node, lineage
from tpo.results.tracking.live import Live
from tpo.results.tracking.metrics import (
    GAIN_COLUMNS,
    final_metrics,
    gain_rows,
    iteration_metrics,
    numbers,
)
from tpo.results.tracking.tracker import Tracker
from tpo.results.winrate import corrected_by_category, win_rate_by_category
from tpo.store.artifacts import Artifact
from tpo.store.errors import why
from tpo.store.files import write_json, write_sealed
from tpo.store.progress import State
from tpo.store.records import Comparison, Completion, Pair, Score
from tpo.store.seeds import derive_seed
from tpo.store.stage import Step
from tpo.store.text import one_line

SERVICE = "WANDB_SERVICE"  # the address of a process of W&B that is running
INIT_S = 30.0  # for W&B to answer, where it could be reached a moment before
OVER_ITERATIONS = ("eval", "sample", "judge", "pairs", "tables", "charts")


class WandbTracker(Tracker):
    """Tracks in Weights & Biases; offline where no key is found, to be synced later."""

    def __init__(
        self, settings: WandbTracking, *, run_path: Path, config: dict[str, Any], labels: Labels, mode: str
    ) -> None:
        """Start the run; its id is the run folder's name, so that a continued run stays one run.

        Where W&B refuses it online, for want of a valid key, it is tracked offline and `why_offline` says why.

        Raises:
            TrackingError: If W&B refuses it, and `tracking.mode=online`, or refuses its settings.
        """
        from wandb.errors import Error

        self.settings, self.config, self.folder = settings, config, run_path.absolute() / "wandb"
        self.mode, self.why_offline = mode, None
        try:
            self.run = self._init(run_path, labels)
        except Error as error:
            said = f"W&B refuses the run ({' '.join(str(error).split())})"
            if settings.mode == "online":
                raise TrackingError(f"{said}: see `wandb login`, or set tracking.mode=offline") from error
            self.mode, self.why_offline = "offline", said
            self.run = self._init(run_path, labels)
        except ValueError as error:
            raise TrackingError(
                f"W&B does not take its settings ({why(error)}): look at the variables of the environment that begin "
                "with WANDB_, or set tracking=none"
            ) from error
        self.run.define_metric("iteration")
        self.run.define_metric("train/step")
        for stage in OVER_ITERATIONS:
            self.run.define_metric(f"{stage}/*", step_metric="iteration")
        self.run.define_metric("train/*", step_metric="train/step")
        # Of a run that continues online, W&B knows what an earlier process logged.
        known = self.run.summary if self.run.resumed else {}
        self.num_iterations = int(known.get("iteration", -1)) + 1
        self.live = Live(self.run.log, num_logged=int(known.get("train/step", 0)))
        self.compared: dict[int, list[Comparison]] = {}  # by iteration
        if self.mode == "online":
            self.where = self.run.url
        elif self.mode == "offline":
            folder = Path(self.run.dir).parent
            self.where = f"offline, {folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder}"
            self.sync_command = f"wandb sync {self.where.removeprefix('offline, ')}"

    def _init(self, run_path: Path, labels: Labels) -> Any:
        import wandb

        # A command inherits it from a notebook that uses W&B, say. That process of W&B would take the run of a killed
        # command for one that goes on, and refuse the command that continues it.
        os.environ.pop(SERVICE, None)
        if not os.environ.get("WANDB_MODE"):  # an empty one is none here, and a mode that there is not to W&B
            os.environ.pop("WANDB_MODE", None)
        settings = self.settings
        return wandb.init(
            project=settings.project,
            entity=settings.entity,
            group=settings.group or labels.group,
            job_type=labels.job_type,
            tags=[*labels.tags, *settings.tags],
            name=settings.name or labels.name,
            notes=settings.notes,
            id=run_path.name,
            resume="allow",
            reinit="create_new",  # never continue what a failed job before this one left open in the same process
            dir=str(run_path),
            config=self.config,
            mode=self.mode,  # type: ignore[arg-type]  # checked by tpo.config.check
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                disable_code=True,
                save_code=False,
                init_timeout=INIT_S,
                x_disable_meta=True,
                x_save_requirements=False,
            ),
        )

    def progressed(self, step: Step, state: State) -> None:
        """Log how far a stage is."""
        self.live.progressed(step, state)

    def measured(self, step: Step, number: int, values: dict[str, Any]) -> None:
        """Log a step of training while it goes on."""
        self.live.measured(step.artifact_id, number, values)

    def log_iteration(self, entry: dict[str, Any], artifacts: Mapping[str, Artifact]) -> None:
        """Log metrics, every category's gain as a table and as bars, the training curve, samples and the adapter."""
        iteration = entry["iteration"]
        self.live.iteration = iteration
        if "train" in artifacts:
            self.live.finished(artifacts["train"].artifact_id, read_steps(artifacts["train"]))
        self.live.iteration = iteration + 1
        self.compared[iteration] = list(artifacts["comparison"].rows(Comparison))
        if iteration < self.num_iterations:  # an earlier process logged it
            return
        self.run.log(iteration_metrics(entry))
        seed, confidence = derive_seed(self.config["seed"], "gains"), self.config["eval"]["confidence"]
        rates = corrected_by_category(self.compared[iteration], seed=seed, confidence=confidence)
        self._log_gains(rates, win_rate_by_category(self.compared.get(0, [])), {"iteration": iteration})
        if "train" in artifacts:
            self._log_tables(iteration, artifacts)
            self._log_adapter(iteration, artifacts["train"], Path(entry["adapter"]).name)

    def finish(self, summary: dict[str, Any], figures: list[Path]) -> dict[str, Any]:
        """Log figures, lineage, config and summary, and an evaluation's gains; set the W&B run's summary and end it."""
        import wandb

        if summary.get("evaluation") == "categories":
            self._log_gains({name: Rate.from_dict(rate) for name, rate in summary["categories"].items()}, {}, {})
        self._log_media({f"figures/{path.stem}": wandb.Image(str(path)) for path in figures})
        for node in lineage(summary, Path(self.config["artifacts_dir"])):
            self._log_node(node)
        for name, content, write in zip(FILES, (self.config, summary), (write_json, write_sealed), strict=True):
            write(Path(self.run.dir) / name, content)
            self.run.save(Path(self.run.dir) / name, base_path=self.run.dir, policy="now", glob=False)
        is_run = "iterations" in summary
        measured = {key: value for key, value in summary.items() if key != "stages"}
        self.run.summary.update(final_metrics(summary) if is_run else dict(numbers(measured, "eval")))
        where = {"mode": self.mode, "run_id": self.run.id, "url": self.run.url if self.mode == "online" else None}
        self.run.finish()
        return where

    def fail(self) -> None:
        """End the run as failed; does nothing after `finish`."""
        self.run.finish(exit_code=1)

    def _log_tables(self, iteration: int, artifacts: Mapping[str, Artifact]) -> None:
        """Log the first `tracking.table_rows` samples and pairs."""
        import wandb

        limit = self.settings.table_rows
        judged = judged_groups(artifacts["completions"].rows(Completion), artifacts["scores"].rows(Score))
        samples = wandb.Table(
            columns=["prompt_id", "sample_index", "score", "thought", "response", "split_error", "is_forced"]
        )
        for row, score in islice(chain.from_iterable(judged), limit):
            is_forced = row.forced_stop > row.forced_start
            samples.add_data(
                row.prompt_id, row.sample_index, score.score, row.thought, row.response, row.split_error, is_forced
            )
        chosen = wandb.Table(columns=["prompt_id", "margin", "chosen_score", "rejected_score", "chosen", "rejected"])
        for pair in islice(artifacts["pairs"].rows(Pair), limit):
            chosen.add_data(
                pair.prompt_id, pair.margin, pair.chosen_score, pair.rejected_score, pair.chosen, pair.rejected
            )
        self._log_media({"iteration": iteration, "tables/samples": samples, "tables/pairs": chosen})

    def _log_adapter(self, iteration: int, checkpoints: Artifact, name: str) -> None:
        """Log the selected adapter, not a whole model, as an artifact, unless `tracking.upload_adapters` is off."""
        import wandb

        if not self.settings.upload_adapters or is_whole_model(checkpoints.path / name):
            return
        source = {
            "source": checkpoints.artifact_id,
            "epoch": int(name.removeprefix("epoch-")),
            "inputs": checkpoints.manifest["inputs"],
        }
        artifact = wandb.Artifact(f"adapter-{self.run.id}", type="model", metadata={"iteration": iteration, **source})
        with self._staging():
            artifact.add_dir(str(checkpoints.verified(name)))
            self.run.log_artifact(artifact, aliases=[f"iteration-{iteration}"])

    def _log_gains(self, rates: Mapping[str, Rate], before: Mapping[str, Rate], axis: dict[str, int]) -> None:
        import wandb

        table = wandb.Table(columns=list(GAIN_COLUMNS))
        for row in gain_rows(rates, before):
            table.add_data(*row)
        bars = wandb.Table(columns=["category", "gain"])
        for name, rate in rates.items():
            if rate.rate is not None:
                bars.add_data(one_line(name), rate.rate - 0.5)
        self._log_media(
            {
                **axis,
                "tables/category_gains": table,
                "charts/category_gains": wandb.plot.bar(bars, "category", "gain", "Win rate - 0.5 by category"),
            }
        )

    def _log_node(self, node: Node) -> None:
        """Log a stage's artifact as the run's output, or as its input."""
        import wandb

        artifact = wandb.Artifact(node.artifact_id, type=node.stage, metadata=node.metadata)
        with self._staging():
            with artifact.new_file("step.json") as file:
                file.write(node.content)
            if node.is_output:
                self.run.log_artifact(artifact)
            else:
                # What `use_artifact` does with an artifact that W&B may not have yet, less the wait: offline, where
                # there is nothing to wait for, it refuses. W&B creates the artifact or finds it by its content, and
                # links it to the run as an input.
                self.run._log_artifact(artifact, is_user_created=True, use_after_commit=True)

    def _log_media(self, values: dict[str, Any]) -> None:
        with self._staging():
            self.run.log(values)

    @contextmanager
    def _staging(self) -> Iterator[None]:
        """Let W&B put its copies of what is to be uploaded beside the run: an offline run is whole in its folder.

        They must be copies: `wandb sync` deletes the files that it has sent, wherever the run's log says they are.
        """
        name = "WANDB_DATA_DIR"
        before = os.environ.get(name)
        os.environ[name] = str(self.folder)
        try:
            yield
        finally:
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before


def read_steps(checkpoints: Artifact) -> Iterator[dict[str, Any]]:
    """Yield what trl measured of every step."""
    for line in checkpoints.verified("metrics.jsonl").read_text().splitlines():
        yield json.loads(line)
