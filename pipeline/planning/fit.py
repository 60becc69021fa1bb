"""Whether model, data, targets and explainers fit each other, found out on two samples."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import explainers
from explainers import Attribution, Network, Scan, Target, explaining
from explainers.cut import ended
from explainers.inputs.opaque import holds_tokens
from pipeline.complaints import told_of
from pipeline.entries import graph_scans, needs_of
from pipeline.errors import PlanError, XpipeError, written_at
from pipeline.gates.columns import check_columns
from pipeline.inputs import ALONE, form_of, in_words, is_one_picture, mapped, n_rows
from pipeline.scorable import GRAPH, misfit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torch import nn

    from explainers import Explainer
    from pipeline.config import RunConfig
    from pipeline.data import Record, Source
    from pipeline.inputs import Form, Inputs
    from pipeline.manifest import Manifest
    from pipeline.metrics import Metric


def count_classes(model: nn.Module, example: Inputs, where: str) -> int:
    """Return the number of outputs of a model.

    Raises
    ------
    PlanError
        If the model does not take the samples, or its output is not ``(batch, classes)``.
    """
    n_samples = n_rows(example)
    try:
        output = output_of(model, example)
    except Exception as error:
        # the model is anybody's code
        form = form_of(mapped(operator.itemgetter(0), example))
        raise PlanError(
            f"{where}: the model does not take inputs of shape {in_words(form)}: "
            f"{type(error).__name__}: {error}",
            fix=_how_to_fit(form),
            page="model-does-not-take-data",
        ) from error
    # models of Hugging Face return their logits in a mapping
    output = getattr(output, "logits", output)
    is_tensor = isinstance(output, torch.Tensor)
    if not is_tensor or output.ndim != 2 or len(output) != n_samples:
        got = f"shape {tuple(output.shape)}" if is_tensor else f"a {type(output).__name__}"
        raise PlanError(
            f"{where}: for {n_samples} inputs the model gave {got}, expected "
            f"({n_samples}, classes)",
            fix="wrap the model so that it returns one row of logits per sample",
            page="model-does-not-take-data",
        )
    return int(output.shape[1])


def output_of(model: nn.Module, batch: Inputs) -> Any:
    """Return whatever a model gives for a batch."""
    with torch.no_grad():
        return model(**batch) if isinstance(batch, dict) else model(batch)


def _how_to_fit(form: Form) -> str:
    if any(part.dtype == "int64" for part in form.values()):
        return (
            "take the vocabulary or tokenizer that the model was trained with, and as many tokens "
            "as it takes: each number must be a row of its embedding"
        )
    return "make the data fit the model, for example by data.resize and data.crop"


def read_network(model: nn.Module, example: Inputs, where: str) -> Network:
    """Return the model as a network.

    Raises
    ------
    PlanError
        If it is none.
    """
    try:
        return Network(model, example)
    except (ValueError, TypeError, RuntimeError, LookupError) as error:
        raise PlanError(
            f"{where}: the model cannot be explained: {error}",
            fix="the model must give the same output for a sample in any batch",
            page="model-does-not-take-data",
        ) from error


def check_classes(config: RunConfig, source: Source, n_classes: int) -> str:
    """Return a note if the network has more outputs than the data has classes, else nothing.

    Raises
    ------
    PlanError
        If it has fewer: whether labels show that depends on which samples are taken.
    """
    with written_at(config.where("data")):
        names = source.class_names
    if names is None or len(names) == n_classes:
        return ""
    if len(names) > n_classes:
        raise PlanError(
            f"{config.where('data')}: wrong class count: the network has {n_classes} outputs, but "
            f"the data has {len(names)} classes",
            fix="name the weights for this data set",
            page="class-count",
        )
    return f"the network has {n_classes} outputs, the data names {len(names)} classes"


def check_labels(config: RunConfig, records: Sequence[Record], n_classes: int) -> None:
    """Refuse labels that the network has no output for.

    Parameters
    ----------
    config
        What was asked for.
    records
        All samples of the source, also those that are not taken.
    n_classes
        Outputs of the network.

    Raises
    ------
    PlanError
        If there are any.
    """
    labels = np.array([record.label for record in records], dtype=np.int64)
    outside = labels >= n_classes
    if outside.any():
        first = int(outside.argmax())
        raise PlanError(
            f"{config.where('data')}: wrong class count: the network has {n_classes} outputs, but "
            f"labels go up to {int(labels.max())} ({int(outside.sum())} of {len(labels)} samples "
            f"are beyond, the first is {records[first].sample_id!r} with label "
            f"{int(labels[first])})",
            fix="name the weights for this data set, or correct its labels",
            page="class-count",
        )
    if (labels < -1).any():
        raise PlanError(
            f"{config.where('data')}: got the label {int(labels.min())}, expected class indices "
            "from 0, or -1 where not known",
            fix="correct the labels",
            page="class-count",
        )


def target_specs(config: RunConfig) -> tuple[Any, ...]:
    """Return the targets as a run file has them."""
    spec = config.model_dump(mode="json", include={"target"})["target"]
    return tuple(spec) if isinstance(spec, list) else (spec,)


def check_targets(config: RunConfig, manifest: Manifest, network: Network) -> tuple[Target, ...]:
    """Return the targets.

    Raises
    ------
    PlanError
        If the network has no such output, layer or unit, or labels are asked for and missing.
    """
    targets = []
    for position, each in enumerate(target_specs(config)):
        target = Target.parse(each)
        keys = ("target", position) if config.has_target_dimension else ("target",)
        try:
            target.check(network)
        except NotImplementedError as error:
            raise PlanError(
                f"{config.where(*keys)}: {error}",
                fix="explain an output",
                page="explainer-does-not-fit",
            ) from error
        except (ValueError, LookupError) as error:
            message = str(error.args[0])
            told = ("unit",) if message.startswith("unit ") else told_of(message, each)
            where = config.where(*keys, *told)
            fix = _layers(network) if isinstance(error, LookupError) else "correct the target"
            raise PlanError(
                f"{where}: {message}", fix=fix, page="explainer-does-not-fit"
            ) from error
        if target.kind == "label":
            _need_labels(config.where(*keys), "the target 'label'", manifest)
        targets.append(target)
    return tuple(targets)


def check_explainers(
    config: RunConfig,
    found: Mapping[str, Explainer],
    network: Network,
    manifest: Manifest,
    targets: Sequence[Target],
) -> None:
    """Refuse explainers that the network, a target or the data cannot serve.

    Raises
    ------
    PlanError
        If a layer does not exist, an operator has no rule, or labels or masks are missing.
    """
    needs = needs_of(config)
    for name, explainer in found.items():
        where = config.where("explainers", name)
        for target in targets:
            _check_explainer(config, name, explainer, network, target)
        if isinstance(explainer, Attribution):
            wanted = {key: found[scan] for key, scan in needs.get(name, {}).items()}
            _check_scans(config, name, explainer, wanted, network)
        if "labels" in explainer.requires:
            _need_labels(where, f"{name!r}", manifest)
        if "masks" in explainer.requires:
            _need_masks(where, f"{name!r}", manifest)


def _check_explainer(
    config: RunConfig, name: str, explainer: Explainer, network: Network, target: Target
) -> None:
    try:
        explaining.check(explainer, network, target)
    except (NotImplementedError, LookupError, ValueError, TypeError, ImportError) as error:
        raise refusal(config, name, error, network) from error


def _check_scans(
    config: RunConfig,
    name: str,
    attribution: Attribution,
    wanted: Mapping[str, Explainer],
    network: Network,
) -> None:
    scans = {key: scan for key, scan in wanted.items() if isinstance(scan, Scan)}
    try:
        attribution.check_scans(scans, network)
    except ValueError as error:
        raise refusal(config, name, error, network) from error


def refusal(config: RunConfig, name: str, error: Exception, network: Network) -> PlanError:
    """Return what an explainer says of a network, at the place in the run file that it is about."""
    message = str(error.args[0] if error.args else error)
    if not isinstance(error, (NotImplementedError, LookupError, ValueError, TypeError)):
        message = f"{type(error).__name__}: {message}"
    keys = told_of(message, config.explainers.get(name, {}))
    fix = "correct its parameters"
    if isinstance(error, NotImplementedError) and "rules" in keys:
        fix = "name a rule that serves the layer; `xpipe explainers lrp` says which there are"
    elif isinstance(error, NotImplementedError):
        keys, fix = (), _instead(message, network)
    elif isinstance(error, LookupError) and "layer" in message:
        fix = _layers(network)
    return PlanError(
        f"{config.where('explainers', name, *keys)}: {message}",
        fix=fix,
        page="explainer-does-not-fit",
    )


def _instead(message: str, network: Network) -> str:
    """Return what to take instead of a method that cannot serve a network."""
    if holds_tokens(network):
        return (
            "take a method that exchanges tokens and looks at outputs alone: occlusion, "
            "feature_ablation, shapley_value_sampling, lime or kernel_shap; or "
            "agglomerative_contextual_decomposition with `score: build_up`"
        )
    if not network.is_program:
        return "take a method that needs values and gradients alone, such as integrated_gradients"
    if "no rule" in message:
        return (
            "take a method that needs values and gradients alone, such as integrated_gradients, "
            "or write the operator's rule"
        )
    return "do as it says, or take another method; `xpipe explainers` lists them"


def check_metrics(config: RunConfig, found: Mapping[str, Metric], manifest: Manifest) -> None:
    """Refuse metrics that the data or the targets cannot serve, and gates of no score of theirs.

    Raises
    ------
    PlanError
        If a metric needs masks or graphs and there are none, or measures probabilities of what
        has none.
    ConfigError
        If a gate is about a score that its metric does not have.
    """
    targets = [Target.parse(spec) for spec in target_specs(config)]
    for name, metric in found.items():
        where = config.where("metrics", name)
        if "masks" in metric.requires:
            _need_masks(where, f"the metric {name!r}", manifest)
        if GRAPH in metric.requires and not graph_scans(config):
            raise PlanError(
                f"{where}: {name!r} scores causal graphs, and no entry of explainers finds any",
                fix="add one: `explainers: {causal_graph: {}}`",
                page="explainer-does-not-fit",
            )
        reason = misfit(metric, targets)
        if reason and GRAPH in metric.requires:
            raise PlanError(
                f"{where}: {reason}",
                fix="explain a class: `target: predicted`",
                page="explainer-does-not-fit",
            )
        if reason:
            raise PlanError(
                f"{where}: {reason}",
                fix="let it compare the explained values, as pixel_flipping does with "
                "`output_space: logit`",
                page="explainer-does-not-fit",
            )
    check_columns(config, found)


def check_metric(
    metric: Metric,
    settings: Mapping[str, Any],
    where: Callable[..., str],
    network: Network | None,
    form: Form,
    targets: Iterable[Target],
) -> None:
    """Refuse a metric whose parameters do not fit the samples, the network or a target.

    Parameters
    ----------
    metric
        The metric.
    settings
        What was asked of it.
    where
        Keys within the settings to the place that is shown.
    network
        As it is explained; None if the metric does not need it and nobody has read it.
    form
        Of a sample; if it is not one tensor of numbers, it is not looked at.
    targets
        What is explained.

    Raises
    ------
    PlanError
        If it could not score a single sample.
    """
    if not is_one_picture(form):
        return
    for target in targets:
        of, meant = network, target
        if network is not None and target.layer is not None:
            of, meant = ended(network, target.layer), target.of_units(network)
        try:
            metric.check(of, form[ALONE].shape, meant)
        except XpipeError as error:
            raise PlanError(f"{where()}: {error.what}", fix=error.fix, page=error.page) from error
        except (NotImplementedError, LookupError, ValueError, TypeError, ImportError) as error:
            message = str(error.args[0] if error.args else error)
            said = f"{where(*told_of(message, settings))}: {message}"
            fix = "install it" if isinstance(error, ImportError) else "correct its parameters"
            raise PlanError(said, fix=fix) from error


def _need_labels(where: str, who: str, manifest: Manifest) -> None:
    n_missing = int((manifest.labels < 0).sum())
    if n_missing:
        raise PlanError(
            f"{where}: {who} needs labels, but {n_missing} of {len(manifest)} samples have none",
            fix="give the data labels, or explain 'predicted'",
            page="labels-or-masks-needed",
        )


def _need_masks(where: str, who: str, manifest: Manifest) -> None:
    if not manifest.n_masks:
        raise PlanError(
            f"{where}: {who} needs masks, but none of the {len(manifest)} samples has one",
            fix="name a folder of masks: `data: {masks: ...}`",
            page="labels-or-masks-needed",
        )


def _layers(network: explainers.Network) -> str:
    names = network.layers
    shown = ", ".join(names[:20])
    more = f", and {len(names) - 20} more; `xpipe inspect` lists them" if len(names) > 20 else ""
    return f"name a layer of the network: {shown}{more}"
