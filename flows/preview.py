"""What a recipe makes of some images, before anything is labelled or trained: to be looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from composition.aliases import require_known
from composition.errors import UserError
from composition.fusion import Fuser
from flows.plan import LabelPlan, make_label_plan
from flows.pseudo_labelling import calibrate, thresholds
from flows.recipe import Recipe
from tasks import unanswered
from tasks.aggregate import fuse_shards
from tasks.calibrate import calibrate_fuser, load_fuser
from tasks.home import Home
from tasks.image_index import build_index, find_index
from tasks.infer import missing_shards, run_teachers
from tasks.label import label_pool
from tasks.looks import find_looks, look_again, looking
from tasks.preview import Preview, collect, pick, ranked
from tasks.store import Artifact, Store
from tasks.thresholds import find_thresholds

LOOKED_THROUGH = 8
"""So many times the images that are asked for are looked through for a class."""


def preview(recipe: Recipe, home: Home, count: int, name: str | None = None) -> Preview:
    """Shows a recipe on some images of its pool.

    Where the teachers have run on the whole pool already, as after `label` or
    `compose`, all is taken from the store. Otherwise they run on the chosen
    images alone, and on the labelled ones if the recipe calibrates on labels.

    Args:
        recipe: What is asked for; its student and evaluation sets are not looked at.
        home: Where teachers and store are.
        count: How many images to show.
        name: Only images with a box of this union class.

    Raises:
        UserError: Something in the recipe is wrong, or there is no such class.
    """
    plan = make_label_plan(recipe, home)
    if name is not None:
        require_known(name, plan.space.classes, "--class")
    pool = len(plan.listing.paths)
    index = find_index(home.store, plan.listing, plan.images_digest)
    whole = index is not None and _is_done(home.store, plan, index)
    if index is None or not whole:
        wanted = count if name is None else LOOKED_THROUGH * count
        paths = tuple(sorted(ranked(plan.listing.paths)[:wanted]))
        index = build_index(home.store, replace(plan.listing, paths=paths))
    shards = run_teachers(home.store, plan.teachers, index, recipe.generate, incomplete=True)
    again = _looking(home.store, plan, index, shards)
    run = partial(run_teachers, incomplete=True)
    seen = look_again(run, home.store, again.teachers, index, shards, recipe.generate)
    try:
        fuser = load_fuser(calibrate(calibrate_fuser, home.store, again, index, seen))
    except UserError:
        if whole or plan.calibration != "label-free":
            raise
        # a few images may hold too few boxes to learn from
        rule = recipe.filter.chosen(plan.labelled is not None, "none")
        again = replace(again, calibration="none", rule=rule)
        fuser = load_fuser(calibrate(calibrate_fuser, home.store, again, index, seen))
    fused, labels = _labels(home.store, again, index, seen.all, fuser)
    records = pick(index, labels, plan.space, count, name)
    images = collect(records, shards, fused, labels)
    return Preview(recipe.name, plan.space, images, whole, again.calibration != "none", pool)


def _is_done(store: Store, plan: LabelPlan, index: Artifact) -> bool:
    """Whether the teachers have seen the whole pool, in all the looks that they take."""
    generate = plan.recipe.generate
    if any(missing_shards(store, teacher, index, generate) for teacher in plan.teachers):
        return False
    shards = run_teachers(store, plan.teachers, index, generate, incomplete=True)
    return not any(
        missing_shards(store, teacher, index, generate, look)
        for teacher in _looking(store, plan, index, shards).teachers
        for look in teacher.further_looks
    )


def _looking(
    store: Store, plan: LabelPlan, index: Artifact, shards: Mapping[str, Sequence[Artifact]]
) -> LabelPlan:
    """The plan with the further looks that its teachers take."""
    if not plan.recipe.looks_again:
        return plan
    found = find_looks(store, plan.teachers, index, shards, plan.recipe.generate)
    return replace(plan, teachers=tuple(looking(plan.teachers, found)))


def _labels(
    store: Store, plan: LabelPlan, index: Artifact, shards: Mapping[str, Sequence[Artifact]], fuser: Fuser
) -> tuple[list[Artifact], Artifact]:
    """The later steps of `flows.pseudo_labelling`, untracked: of a look no run is kept."""
    rules = plan.recipe.filter
    fused = fuse_shards(store, shards, plan.space, fuser, rules.floor)
    limits = thresholds(find_thresholds, store, plan, fused, fuser)
    silent = unanswered.images_of(shards)
    return fused, label_pool(store, index, fused, plan.space, rules, limits, silent)
